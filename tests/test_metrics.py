from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from webtest import TestApp

from incoming_wsgi import Incoming
from incoming_wsgi.metrics import Metrics
from incoming_wsgi.settings import gather

from .helpers import ROOT


def figures(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines if "_created{" not in name}


def test_events_are_counted() -> None:
    metrics = Metrics()
    for event, fields in (
        ("created", {}),
        ("moved", {"state": "receiving"}),
        ("moved", {"state": "receiving"}),
        ("refused", {"reason": "over_quota"}),
        ("arrived", {"count": 1000}),
        ("handed_over", {"answer": "done"}),
        ("connected", {"count": 1}),
        ("connected", {"count": 1}),
        ("connected", {"count": -1}),
        ("something else", {}),
    ):
        metrics.hear(event, fields)
    found = figures(metrics.exposition().decode())
    assert found["incoming_uploads_created_total"] == 1
    assert found['incoming_upload_moves_total{state="receiving"}'] == 2
    assert found['incoming_refusals_total{error="over_quota"}'] == 1
    assert found["incoming_received_bytes_total"] == 1000
    assert found['incoming_handovers_total{answer="done"}'] == 1
    assert found["incoming_connections"] == 1


def test_there_are_none_unless_asked_for(tmp_path: Path) -> None:
    incoming = Incoming(lambda *_: [], storage=tmp_path, on_finish=lambda _: "done")
    with pytest.raises(RuntimeError, match="metrics=True"):
        _ = incoming.metrics_app
    for path in ("/incoming/metrics", "/incoming/frontend/metrics", "/incoming/backend/metrics"):
        assert TestApp(incoming).get(path, expect_errors=True).status_int == 404
    incoming.close()


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incoming_wsgi.settings.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"incoming-wsgi\[metrics\]"):
        gather({"storage": "/x", "metrics": True}, {})


CODE = """
import sys
from webtest import TestApp
from incoming_wsgi import Incoming
incoming = Incoming(lambda *_: [], storage=sys.argv[1], on_finish=lambda _: "done", metrics=True)
incoming.new_upload()
print(TestApp(incoming.metrics_app).get("/").text)
incoming.close()
"""


def test_several_processes_are_counted_together(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}

    def run() -> dict[str, float]:
        command = [sys.executable, "-c", CODE, str(tmp_path / "files")]
        return figures(
            subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        )

    assert run()["incoming_uploads_created_total"] == 1
    assert run()["incoming_uploads_created_total"] == 2
