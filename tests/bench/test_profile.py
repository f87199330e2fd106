"""A sample counts for our innermost module, or for the package that was busy; who waits doesn't count."""

from __future__ import annotations

import pytest

from bench.profile import parts_of

STACKS = """\
process 7:"gunicorn app";Bottle.wsgi (bottle.py:10);Receiver.create (incoming_wsgi/receiver.py:15);dumps (json.py:3) 40
process 7:"gunicorn app";Incoming.__call__ (incoming_wsgi/registry/__init__.py:91) 20
process 7:"gunicorn app";Worker.handle (gunicorn/workers/ggevent.py:120);send (gevent/_socketcommon.py:16) 38
process 7:"gunicorn app";Hub.run (gevent/hub.py:647) 500
process 7:"gunicorn app";Queue.get (gevent/_threading.py:207);acquire (gevent/_threading.py:36) 900
process 7:"gunicorn app";parse (re.py:1) 2
process 7:"gunicorn app" 300
"""


def test_parts() -> None:
    parts = parts_of(STACKS)
    assert list(parts) == ["incoming_wsgi.receiver", "gevent", "incoming_wsgi.registry", "everything else"]
    assert list(parts.values()) == pytest.approx([0.4, 0.38, 0.2, 0.02])


def test_no_samples() -> None:
    assert parts_of("") == {}
