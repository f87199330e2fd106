import assert from "node:assert/strict";
import { test } from "node:test";
import {
  KIB,
  MIB,
  ended,
  file_of,
  listen,
  network,
  pass,
  refuse,
  same,
  serve_sockets,
  settle,
  until,
  world,
} from "./support/world.mjs";

const html = (status) => ({ status, text: "<html>proxy</html>" });
const refuse_sockets = () => (network.accept_socket = (socket) => socket.drop(1006));

test("HTTP is preferred, and no socket is opened without need", async () => {
  const { server, incoming } = world();
  serve_sockets(server);
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.start();
  assert.equal(u.transport, "http");
  await until(ended(u));
  assert.deepEqual([u.transport, network.sockets.length], ["http", 0]);
});

for (const answer of [html(405), html(501), html(403), refuse(405, "method_not_allowed"), "lost"]) {
  const what = typeof answer === "string" ? answer : `answered ${answer.status}${answer.text ? " by a proxy" : ""}`;
  test(`chunks that are ${what}: over to the WebSocket, and the page remembers`, async () => {
    const { server, upload, incoming } = world();
    serve_sockets(server);
    server.intercept = ({ method }) => (method === "PUT" ? answer : undefined);
    const file = file_of(2 * MIB);
    const u = incoming.Uploader("t1", file);
    u.start();
    await until(ended(u));
    assert.ok(u.finished && same(upload.bytes, file.content));
    assert.equal(u.transport, "websocket");
    server.ticket("t2");
    const second = incoming.Uploader("t2", file);
    second.start();
    assert.equal(second.transport, "websocket");
    await until(ended(second));
    assert.equal(second.finished, true);
  });
}

test("where the server has no WebSocket, a clear refusal is the end", async () => {
  const { server, incoming } = world();
  server.websocket = false;
  server.intercept = ({ method }) => (method === "PUT" ? html(405) : undefined);
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.start();
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.method_not_allowed);
  assert.equal(network.sockets.length, 0);
});

test("where the server has no WebSocket, chunks that get lost are tried on and on", async () => {
  const { server, incoming } = world();
  server.websocket = false;
  server.intercept = ({ method }) => (method === "PUT" ? "lost" : undefined);
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.start();
  await until(() => server.count("PUT") > 0);
  await pass(3600_000);
  assert.deepEqual([u.error_code, network.sockets.length, u.phase], [0, 0, "uploading"]);
  assert.ok(server.count("PUT") < 600, `${server.count("PUT")} chunks in an hour`);
});

test("opening that is blocked while the status gets through: over to the WebSocket", async () => {
  const { server, incoming } = world();
  serve_sockets(server);
  server.intercept = ({ method }) => (method === "POST" ? "lost" : undefined);
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.start();
  await until(ended(u));
  assert.deepEqual([u.finished, u.transport], [true, "websocket"]);
});

test("a plain 0.1 server, which answers 404, gets the file over its WebSocket", async () => {
  const { server, upload, incoming } = world();
  serve_sockets(server, { additions: false });
  server.intercept = () => html(404);
  const file = file_of(MIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.ok(u.finished && same(upload.bytes, file.content));
});

test("a plain 0.1 server of another origin, of which HTTP hears nothing, too", async () => {
  const { server, incoming } = world();
  serve_sockets(server, { additions: false });
  server.intercept = () => "lost";
  const u = incoming.Uploader("t1", file_of(MIB));
  u.start();
  await until(ended(u));
  assert.deepEqual([u.finished, u.transport], [true, "websocket"]);
  server.intercept = () => undefined;
  server.ticket("t2");
  const second = incoming.Uploader("t2", file_of(MIB));
  second.start();
  assert.equal(second.transport, "http", "that was a guess, so the page doesn't rely on it");
  await until(ended(second));
});

test("cancelling at a plain 0.1 server", async () => {
  const { server, upload, incoming } = world();
  serve_sockets(server, { additions: false });
  server.intercept = () => html(404);
  const u = incoming.Uploader("t1", file_of(MIB));
  u.start();
  await until(() => u.bytes_acked > 0);
  u.pause();
  u.cancel("no");
  await until(ended(u));
  assert.deepEqual([u.cancelled, upload.state], [true, "cancelled"]);
});

test("nothing there over either transport, with a clear answer: the end", async () => {
  const { server, incoming } = world();
  refuse_sockets();
  server.intercept = () => html(404);
  const u = incoming.Uploader("t1", file_of(MIB));
  u.start();
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.not_found);
});

test("a server that is down is waited for, however it is tried", async () => {
  const { server, incoming } = world();
  refuse_sockets();
  server.intercept = () => "lost";
  const u = incoming.Uploader("t1", file_of(MIB));
  const heard = listen(u);
  u.start();
  await until(() => heard.some(({ transport }) => transport === "websocket"));
  await pass(600_000);
  assert.equal(u.error_code, 0);
  server.intercept = () => undefined;
  await until(ended(u));
  assert.deepEqual([u.finished, u.transport], [true, "http"]);
});

test("an unknown ticket is the end, and no reason to try the WebSocket", async () => {
  const { server, incoming } = world();
  server.uploads.clear();
  const u = incoming.Uploader("t1", file_of(MIB));
  u.start();
  await until(ended(u));
  assert.deepEqual([u.error_code, network.sockets.length], [incoming.errors.unknown_upload, 0]);
});

test("a WebSocket that can't be opened twice: over to HTTP", async () => {
  const { server, incoming } = world();
  serve_sockets(server);
  const accept = network.accept_socket;
  server.intercept = ({ method }) => (method === "PUT" ? html(405) : undefined);
  const first = incoming.Uploader("t1", file_of(2 * MIB));
  first.start();
  await until(ended(first));
  assert.equal(first.transport, "websocket");
  // Now it is the WebSocket that doesn't get through.
  refuse_sockets();
  server.intercept = () => undefined;
  network.sockets = [];
  server.ticket("t2");
  const second = incoming.Uploader("t2", file_of(2 * MIB));
  second.start();
  await until(ended(second));
  assert.deepEqual([second.finished, second.transport, network.sockets.length], [true, "http", 2]);
});

test("a transport that was asked for is the only one that is used", async () => {
  const { server, incoming } = world();
  refuse_sockets();
  const u = incoming.Uploader("t1", file_of(2 * MIB), { transport: "websocket" });
  u.start();
  await pass(600_000);
  assert.deepEqual([server.requests.length, u.transport, u.error_code], [0, "websocket", 0]);
  serve_sockets(server);
  await until(ended(u));
  assert.equal(u.finished, true);
});
