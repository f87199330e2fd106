import assert from "node:assert/strict";
import { test } from "node:test";
import {
  KIB,
  MIB,
  after,
  ended,
  file_of,
  listen,
  network,
  now,
  pass,
  same,
  serve_sockets,
  settle,
  until,
  world,
} from "./support/world.mjs";

const only = { transport: "websocket" };

function socket_world(options) {
  const all = world();
  serve_sockets(all.server, options);
  return all;
}

for (const additions of [true, false]) {
  test(`a file arrives whole ${additions ? "with the additions" : "at a plain 0.1 server"}`, async () => {
    const { server, upload, incoming } = socket_world({ additions });
    const file = file_of(MIB + 17);
    const u = incoming.Uploader("t1", file, only);
    const heard = listen(u);
    u.start();
    await until(ended(u));
    assert.ok(u.finished && same(upload.bytes, file.content));
    assert.equal(server.requests.length, 0);
    const [socket] = network.sockets;
    assert.equal(socket.url, "wss://files.example/incoming/0.1/frontend/upload_ws");
    const { MsgType, MsgData } = socket.sent[0];
    assert.equal(MsgType, "MsgUploadReq");
    assert.deepEqual(
      { ...MsgData, Fingerprint: "…", Opening: "…" },
      { Id: "t1", LengthBytes: file.size, Name: "film.mov", Additions: 1, Fingerprint: "…", Opening: "…" },
    );
    assert.deepEqual(socket.sent[1], { MsgType: "MsgAck", MsgData: { Ack: true } });
    assert.equal(socket.binary.length, 17);
    assert.deepEqual([u.chunks_tx_now, u.chunks_acked_now, u.chunks_ahead], [17, 17, 0]);
    assert.deepEqual([...new Set(heard.map(({ phase }) => phase))], ["uploading", "processing", "finished"]);
  });

  test(`an empty file arrives ${additions ? "with the additions" : "at a plain 0.1 server"}`, async () => {
    const { incoming } = socket_world({ additions });
    const u = incoming.Uploader("t1", file_of(0), only);
    u.start();
    await until(ended(u));
    assert.deepEqual([u.finished, u.frac_complete, network.sockets[0].binary.length], [true, 1, 0]);
  });
}

test("no more chunks are ahead than the server allows", async () => {
  const { incoming } = socket_world({ send_ahead: 3 });
  const u = incoming.Uploader("t1", file_of(2 * MIB), only);
  let most = 0;
  u.onprogress = () => (most = Math.max(most, u.chunks_ahead));
  u.start();
  await until(ended(u));
  assert.equal(most, 3);
});

test("chunks shrink on a slow line", async () => {
  const { server, incoming } = world();
  serve_sockets(server, { chunk_kb: 1024, send_ahead: 8 });
  network.accept_socket = ((accept) => (socket) => {
    accept(socket);
    const hear = socket.on_sent;
    let free_at = 0;
    socket.on_sent = (message) => {
      if (message.MsgType) return hear(message);
      free_at = Math.max(now(), free_at) + message.byteLength / 60;
      after(free_at - now(), () => hear(message));
    };
  })(network.accept_socket);
  const u = incoming.Uploader("t1", file_of(4 * MIB), only);
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  assert.equal(network.sockets.length, 1);
  assert.equal(network.sockets[0].binary[1].length, Math.floor(512 * KIB * (2000 / (512 * KIB / 60 + 10))));
});

test("the browser's buffer isn't filled without end, and isn't taken for the network", async () => {
  const { incoming } = socket_world({ chunk_kb: 1024, send_ahead: 100 });
  network.accept_socket = ((accept) => (socket) => {
    socket.buffered = 0;
    Object.defineProperty(socket, "bufferedAmount", { get: () => socket.buffered });
    accept(socket);
    const hear = socket.on_sent;
    socket.on_sent = (message) =>
      message.MsgType || socket.binary.length === 1 ? hear(message) : (socket.buffered += message.byteLength);
  })(network.accept_socket);
  const u = incoming.Uploader("t1", file_of(12 * MIB), only);
  u.start();
  await until(() => network.sockets[0]?.binary.length === 9);
  await pass(5000);
  assert.equal(network.sockets[0].binary.length, 9);
  assert.equal(u.bytes_tx, 512 * KIB);
  network.sockets[0].buffered = MIB;
  await until(() => network.sockets[0].binary.length > 9);
  assert.equal(u.bytes_tx, 7.5 * MIB);
});

test("it goes on where the server says after the connection broke", async () => {
  const { upload, incoming } = socket_world();
  const file = file_of(2 * MIB);
  const u = incoming.Uploader("t1", file, only);
  u.start();
  await until(() => u.bytes_acked > 500 * KIB);
  const broken = now();
  network.sockets[0].drop(1006);
  await until(() => network.sockets.length === 2);
  assert.ok(now() - broken <= 1000);
  await until(ended(u));
  assert.ok(u.finished && same(upload.bytes, file.content));
  assert.ok(network.sockets[1].binary.length < 32 - 7);
});

test("a restart (1012) and no room (1013) pass, and the person hears which", async () => {
  for (const [code, msg] of [
    [1012, "connection lost, trying again"],
    [1013, "waiting for space on the server"],
  ]) {
    const { incoming } = socket_world();
    const u = incoming.Uploader("t1", file_of(MIB), only);
    u.start();
    await until(() => u.bytes_acked > 0);
    network.sockets[0].drop(code);
    await until(() => u.state_msg === msg);
    await until(ended(u));
    assert.equal(u.finished, true);
  }
});

test("bytes that are needed again (1013 with a reason) are sent again, and nothing is said of space", async () => {
  const { upload, incoming } = socket_world();
  const file = file_of(2 * MIB);
  const u = incoming.Uploader("t1", file, only);
  const heard = listen(u);
  u.start();
  await until(() => u.bytes_acked > 500 * KIB);
  network.sockets[0].drop(1013, "Some bytes of this upload are needed again.");
  await until(ended(u));
  assert.ok(u.finished && same(upload.bytes, file.content));
  assert.ok(!heard.some(({ msg }) => msg.includes("space")));
});

test("who has been replaced (4001) doesn't come back", async () => {
  const { incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  network.sockets[0].drop(4001);
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.replaced);
  await pass(120_000);
  assert.equal(network.sockets.length, 1);
});

test("MsgError is the end", async () => {
  const { incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  network.sockets[0].say("MsgError", { ErrorCode: 11, Msg: "not the same file" });
  await until(ended(u));
  assert.deepEqual([u.error_code, u.error_msg, u.phase], [11, "not the same file", "failed"]);
});

test("MsgCancel from the server cancels, with its reason", async () => {
  const { incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  network.sockets[0].say("MsgCancel", { Reason: "idle for too long" });
  await until(ended(u));
  assert.deepEqual([u.cancelled, u.cancel_msg], [true, "idle for too long"]);
});

test("more at the server than in the file: the file changed", async () => {
  const { server, incoming } = world();
  network.accept_socket = (socket) => {
    socket.on_sent = () => socket.say("MsgUploadConf", { ChunkSizeKB: 64, FilePos: 2000, SendAhead: 4 });
    socket.accept();
  };
  const u = incoming.Uploader("t1", file_of(1000), only);
  u.start();
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.file_changed);
});

test("what isn't understood is ignored", async () => {
  const { incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  network.sockets[0].say("MsgFromTheFuture", {});
  network.sockets[0].say("constructor", {});
  network.sockets[0].onmessage({ data: "nonsense" });
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("pause says so before it closes", async () => {
  const { incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  u.pause();
  const [socket] = network.sockets;
  assert.deepEqual(socket.sent.at(-1), { MsgType: "MsgPause", MsgData: { Pause: true } });
  assert.equal(socket.readyState, 3);
  await pass(60_000);
  assert.equal(network.sockets.length, 1);
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("cancel uses the connection that there is", async () => {
  const { upload, incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  u.cancel("stop");
  await until(ended(u));
  assert.deepEqual([network.sockets.length, u.cancelled, upload.reason], [1, true, "stop"]);
});

test("cancel connects when there is no connection: before the start, while connecting, paused", async () => {
  for (const bring_about of [
    async () => {},
    async (u) => u.start(),
    async (u) => (u.start(), await until(() => network.sockets.length === 1)),
    async (u) => (u.start(), await until(() => u.bytes_acked > 0), u.pause()),
  ]) {
    const { upload, incoming } = socket_world();
    const u = incoming.Uploader("t1", file_of(MIB), only);
    await bring_about(u);
    u.cancel("stop");
    await until(ended(u));
    assert.deepEqual([u.cancelled, upload.state], [true, "cancelled"]);
    await pass(60_000);
    assert.ok(network.sockets.every((socket) => socket.readyState === 3));
  }
});

test("a connection in a black hole is given up within 10 s", async () => {
  const { server, incoming } = socket_world();
  server.intercept = () => "hang";
  const u = incoming.Uploader("t1", file_of(2 * MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  network.sockets[0].on_sent = null;
  await until(() => u.chunks_ahead === 4);
  const begun = now();
  await until(() => !u.connected);
  assert.ok(now() - begun <= 10_000, `${now() - begun} ms`);
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("a server that is slow to store what it got isn't taken for a black hole while it answers", async () => {
  const { incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(2 * MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  const [socket] = network.sockets;
  const hear = socket.on_sent;
  socket.on_sent = (message) => after(25_000, () => hear(message));
  await until(ended(u));
  assert.deepEqual([u.finished, network.sockets.length], [true, 1]);
});

test("connections that get stuck while they are opened are given up soon, once one has opened", async () => {
  const { incoming } = socket_world();
  const u = incoming.Uploader("t1", file_of(2 * MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  const { accept_socket } = network;
  network.accept_socket = () => {};
  network.sockets[0].drop(1006);
  await pass(60_000);
  const count = network.sockets.length;
  assert.ok(count >= 8, `${count} in a minute`);
  network.accept_socket = accept_socket;
  const begun = now();
  await until(() => u.connected);
  assert.ok(now() - begun <= 10_000);
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("a server that never answers the request is given up", async () => {
  const { server, incoming } = world();
  network.accept_socket = (socket) => socket.accept();
  const u = incoming.Uploader("t1", file_of(MIB), only);
  u.start();
  await until(() => network.sockets.length === 1);
  serve_sockets(server);
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("a connection that is silent while the file is processed is renewed, where the server can bear it", async () => {
  for (const additions of [true, false]) {
    const { server, incoming } = socket_world({ additions });
    server.finishes = false;
    const u = incoming.Uploader("t1", file_of(MIB), only);
    const heard = listen(u);
    u.start();
    await until(() => u.phase === "processing");
    const before = heard.length;
    await pass(65_000);
    assert.equal(network.sockets.length, additions ? 2 : 1);
    assert.ok(heard.slice(before).every(({ phase, msg }) => phase === "processing" && msg === "processing"));
    server.finishes = true;
    network.sockets.at(-1).drop(1006);
    await until(ended(u));
    assert.equal(u.finished, true);
  }
});

test("a file that becomes unreadable is the end", async () => {
  const { incoming } = socket_world();
  const file = file_of(MIB);
  const u = incoming.Uploader("t1", file, only);
  u.start();
  await until(() => u.bytes_acked > 0);
  file.slice = () => ({ arrayBuffer: () => Promise.reject(new DOMException("gone", "NotReadableError")) });
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.file_unreadable);
});
