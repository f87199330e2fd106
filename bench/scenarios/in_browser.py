"""J: what a real browser sends to us, beside what it sends to nobody."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from incoming_wsgi.settings import Settings

from ..chromium import Tab, upload
from ..peers.bare import Bare
from ..peers.ours import Ours
from ..peers.server import Server
from ..report import Goal, Report, Table
from ..rounds import in_turn, running
from ..setting import Setting
from .streams import OURS_PLAIN, RATE, SINK, at_least, ours

_AT_LEAST = 0.9
_TRANSPORTS: Mapping[str, str] = {"http": "HTTP", "websocket": "WebSocket"}
_MIB = 2**20

_TO_SINK = {
    "http": """(async () => {
        const file = document.getElementById("file").files[0];
        const began = performance.now();
        let next = 0;
        const lane = async () => {
            while (next < file.size) {
                const start = next;
                next += %(chunk)d;
                await fetch("/sink", {method: "PUT", body: file.slice(start, start + %(chunk)d)});
            }
        };
        await Promise.all(Array.from({length: %(ahead)d}, lane));
        return (performance.now() - began) / 1000;
    })()""",
    "websocket": """new Promise((resolve, reject) => {
        const file = document.getElementById("file").files[0];
        const began = performance.now();
        const socket = new WebSocket(`ws://${location.host}/sink`);
        let sent = 0, acknowledged = 0;
        const say = (MsgType, MsgData) => socket.send(JSON.stringify({MsgType, MsgData}));
        const pump = () => {
            while (sent < file.size && sent - acknowledged < %(chunk)d * %(ahead)d) {
                socket.send(file.slice(sent, sent + %(chunk)d));
                sent = Math.min(file.size, sent + %(chunk)d);
            }
        };
        socket.onopen = () => say("MsgUploadReq", {Id: "any", LengthBytes: file.size, Name: "any"});
        socket.onerror = () => reject(new Error("no WebSocket"));
        socket.onmessage = ({data}) => {
            const {MsgType, MsgData} = JSON.parse(data);
            if (MsgType === "MsgChunkAck") acknowledged += MsgData.ChunkSize;
            if (MsgType === "MsgAllDone") resolve((performance.now() - began) / 1000);
            else pump();
        };
    })""",
}


def in_browser(setting: Setting) -> Report:
    room = setting.room("browser")
    file = new_file(room / "file.bin", setting.size)
    table = Table("Chromium", [RATE], plotted=RATE)
    receivers: list[Server] = [*ours(room), Bare(SINK, room / "sink", "discard")]
    with Tab(room / "profile") as tab, running(receivers) as servers:
        contenders = [(transport, server) for transport in _TRANSPORTS for server in servers]

        def measure(contender: tuple[str, Server], counts: bool) -> None:
            transport, server = contender
            if isinstance(server, Ours):
                seconds = _to_us(tab, server, file, transport)
            else:
                seconds = _to_sink(tab, server, file, transport)
            if counts:
                table.add(_row(server.name, transport), setting.size / seconds / 1e6)

        in_turn(contenders, setting.rounds, measure)
        version = tab.version()
    return Report(
        letter="J",
        title="From a browser",
        about=f"{version}, headless, with our library, until that says that the app is done; and the same "
        "browser with a few lines of script and a server that throws all away. HTTP to that server: as "
        "many requests at once, and as long ones, as our library makes; the WebSocket: Blobs, as many "
        "ahead as our library sends. The sink computes no digest.",
        tables=[table],
        goals=[_goal(table, transport) for transport in _TRANSPORTS],
    )


def new_file(path: Path, length: int) -> Path:
    """A file of random bytes."""
    with path.open("wb") as out:
        for _ in range(length // _MIB):
            out.write(os.urandom(_MIB))
    return path


def _row(server: str, transport: str) -> str:
    return f"{server}, {_TRANSPORTS[transport]}"


def _to_us(tab: Tab, server: Ours, file: Path, transport: str) -> float:
    seconds = upload(tab, server.url, server.ticket(), file, transport)
    server.clear()
    return seconds


def _to_sink(tab: Tab, server: Server, file: Path, transport: str) -> float:
    tab.open(f"http://127.0.0.1:{server.port}/")
    tab.pick(file)
    return float(tab.evaluate(_TO_SINK[transport] % _habits(transport)))


def _habits(transport: str) -> dict[str, int]:
    """How our library sends, as its server lets it."""
    if transport == "http":
        return {"chunk": Settings.chunk_size, "ahead": Settings.lanes}
    return {"chunk": Settings.websocket_chunk_size, "ahead": Settings.send_ahead}


def _goal(table: Table, transport: str) -> Goal:
    return at_least(
        table, "rate beside the discarding sink", (_row(OURS_PLAIN, transport), _row(SINK, transport)), RATE, _AT_LEAST
    )
