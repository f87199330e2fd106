import assert from "node:assert/strict";
import { test } from "node:test";
import {
  KIB,
  MIB,
  SCRIPT,
  ended,
  file_of,
  listen,
  network,
  pass,
  serve_sockets,
  settle,
  until,
  world,
} from "./support/world.mjs";
import { make_library } from "../../assets/src/library.js";

const FLAGS = ["connected", "finished", "paused", "can_pause", "cancelling", "cancelled", "can_cancel"];
const flags = (u) => FLAGS.filter((name) => u[name]).join(" ");
const hang = () => "hang";

test("it works with new and without", () => {
  const { incoming } = world();
  const a = new incoming.Uploader("t1", file_of(1));
  const b = incoming.Uploader("t1", file_of(1));
  assert.ok(a instanceof incoming.Uploader && b instanceof incoming.Uploader);
});

test("it is particular about what it is given", () => {
  const { incoming } = world();
  for (const args of [
    ["", file_of(1)],
    [undefined, file_of(1)],
    ["t1"],
    ["t1", "text"],
    ["t1", file_of(1), { transprot: "http" }],
    ["t1", file_of(1), { transport: "ftp" }],
  ]) {
    assert.throws(() => incoming.Uploader(...args), TypeError);
  }
});

test("before it is started", async () => {
  const { server, incoming } = world();
  const u = incoming.Uploader("t1", file_of(10, "a.txt"));
  assert.equal(flags(u), "can_cancel");
  assert.deepEqual(
    [
      u.filename,
      u.bytes_total,
      u.bytes_tx,
      u.bytes_acked,
      u.bytes_ahead,
      u.frac_complete,
      u.chunks_tx_now,
      u.chunks_acked_now,
      u.chunks_ahead,
    ],
    ["a.txt", 10, 0, 0, 0, 0, 0, 0, 0],
  );
  assert.deepEqual(
    [u.state_msg, u.cancel_msg, u.error_code, u.error_msg, u.phase, u.transport],
    ["not started", "", 0, "", "uploading", ""],
  );
  await pass(10_000);
  assert.equal(server.requests.length, 0);
});

test("what can be seen can't be changed", () => {
  const { incoming } = world();
  const u = incoming.Uploader("t1", file_of(10));
  for (const name of [...FLAGS, "bytes_acked", "state_msg", "error_code", "phase"]) {
    assert.throws(() => (u[name] = 1), TypeError, name);
  }
});

test("the flags in each state", async () => {
  const { server, incoming } = world();
  server.finishes = false;
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.start();
  assert.equal(flags(u), "can_pause can_cancel");
  await until(() => u.bytes_acked > 0);
  assert.equal(flags(u), "connected can_pause can_cancel");
  u.pause();
  assert.equal(flags(u), "paused can_cancel");
  u.start();
  await until(() => u.phase === "processing");
  assert.equal(flags(u), "connected can_cancel");
  server.change(server.uploads.get("t1"), "finished");
  await until(() => u.finished);
  assert.equal(flags(u), "finished");
  u.pause();
  u.cancel();
  u.start();
  assert.equal(flags(u), "finished");
});

test("onprogress comes first, then the one callback that matches, once", async () => {
  const { incoming } = world();
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  const heard = listen(u);
  u.start();
  await until(ended(u));
  await pass(60_000);
  assert.deepEqual(
    heard.slice(-2).map(({ name }) => name),
    ["onprogress", "onfinished"],
  );
  assert.equal(heard.filter(({ name }) => name !== "onprogress").length, 1);
  assert.ok(heard.every(({ who }) => who === u));
  assert.equal(heard.at(-2).phase, "finished");
  const acked = heard.map((event) => event.acked);
  assert.deepEqual(acked, acked.toSorted ? acked.toSorted((a, b) => a - b) : acked);
});

test("a callback that throws is reported and doesn't stop the upload", async (t) => {
  const { incoming } = world();
  const report = t.mock.method(console, "error", () => {});
  const u = incoming.Uploader("t1", file_of(100));
  u.onprogress = u.onfinished = () => {
    throw new Error("the page's own");
  };
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  assert.ok(report.mock.callCount() > 1);
});

test("a callback may pause or cancel", async () => {
  const { incoming } = world();
  const u = incoming.Uploader("t1", file_of(3 * MIB));
  u.onprogress = () => u.bytes_acked > 0 && u.cancel("enough");
  u.start();
  await until(ended(u));
  assert.deepEqual([u.cancelled, u.cancel_msg], [true, "enough"]);
});

test("pause stops it and tells the server, start goes on", async () => {
  const { server, upload, incoming } = world();
  const file = file_of(3 * MIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(() => u.bytes_acked > 0);
  u.pause();
  await until(() => upload.state === "paused");
  const before = server.requests.length;
  await pass(60_000);
  assert.equal(server.requests.length, before);
  assert.equal(u.state_msg, "paused");
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("pausing before it is connected holds it back, over either transport", async () => {
  for (const transport of ["http", "websocket"]) {
    const { server, incoming } = world();
    serve_sockets(server);
    const u = incoming.Uploader("t1", file_of(3 * MIB), { transport });
    u.start();
    u.pause();
    await pass(60_000);
    assert.deepEqual([server.requests.length, network.sockets.length, u.paused], [0, 0, true]);
    u.start();
    await until(ended(u));
    assert.equal(u.finished, true);
  }
});

test("pausing and starting quickly, again and again", async () => {
  const { server, upload, incoming } = world();
  const file = file_of(3 * MIB);
  const u = incoming.Uploader("t1", file);
  for (let i = 0; i < 10; i++) {
    u.start();
    await pass(i * 7);
    u.pause();
  }
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  assert.equal(server.missing(upload).length, 0);
});

for (const [when, bring_about] of [
  ["before it is started", async () => {}],
  ["while it connects", async (u) => u.start()],
  ["while it uploads", async (u) => (u.start(), await until(() => u.bytes_acked > 0))],
  ["while it is paused", async (u) => (u.start(), await until(() => u.bytes_acked > 0), u.pause())],
  ["while it is processed", async (u) => (u.start(), await until(() => u.phase === "processing"))],
]) {
  test(`cancel works ${when}`, async () => {
    const { server, upload, incoming } = world();
    server.finishes = false;
    const u = incoming.Uploader("t1", file_of(2 * MIB));
    const heard = listen(u);
    await bring_about(u);
    u.cancel("Grünes Ei");
    assert.equal(flags(u), "cancelling");
    await until(ended(u));
    assert.equal(flags(u), "cancelled");
    assert.deepEqual(
      [u.phase, u.cancel_msg, upload.state, upload.reason],
      ["cancelled", "Grünes Ei", "cancelled", "Grünes Ei"],
    );
    assert.deepEqual(
      heard.slice(-2).map(({ name }) => name),
      ["onprogress", "oncancelled"],
    );
    await pass(60_000);
    assert.equal(heard.filter(({ name }) => name !== "onprogress").length, 1);
  });
}

test("a long reason is cut, so that it fits into a header", async () => {
  const { upload, incoming } = world();
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.cancel("\u{1F600}".repeat(4000));
  await until(ended(u));
  assert.equal(upload.reason.length, 500);
  assert.equal(u.cancel_msg, upload.reason);
});

test("cancel while offline is sent when the server can be reached again", async () => {
  const { server, upload, incoming } = world();
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.start();
  await until(() => u.bytes_acked > 0);
  server.intercept = () => "lost";
  u.cancel();
  await pass(600_000);
  assert.equal(flags(u), "cancelling");
  server.intercept = () => undefined;
  await until(ended(u));
  assert.deepEqual([u.cancelled, upload.state], [true, "cancelled"]);
});

test("cancelling a ticket that is gone is cancelled", async () => {
  const { server, incoming } = world();
  server.uploads.clear();
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.cancel("never mind");
  await until(ended(u));
  assert.deepEqual([u.cancelled, u.cancel_msg], [true, "never mind"]);
});

test("too late to cancel: it goes on to the end", async () => {
  const { server, upload, incoming } = world();
  server.finishes = false;
  const u = incoming.Uploader("t1", file_of(100));
  u.start();
  await until(() => u.phase === "processing");
  server.change(upload, "handing_over");
  u.cancel("oops");
  await until(() => !u.cancelling);
  assert.deepEqual([u.can_cancel, u.phase, u.cancel_msg], [false, "processing", ""]);
  server.change(upload, "finished");
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("previous() knows the ticket of an upload that hasn't ended", async () => {
  const { server, incoming } = world();
  const file = file_of(2 * MIB);
  assert.equal(await incoming.previous(file), null);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(() => u.bytes_acked > 0);
  u.pause();
  const reloaded = make_library(SCRIPT, "https://app.example/page");
  assert.equal(await reloaded.previous(file_of(2 * MIB)), "t1");
  assert.equal(await reloaded.previous(file_of(2 * MIB, "other.mov")), null);
  const again = reloaded.Uploader("t1", file_of(2 * MIB));
  again.start();
  await until(ended(again));
  assert.equal(await reloaded.previous(file), null);
});

test("previous() forgets what was cancelled", async () => {
  const { incoming } = world();
  const file = file_of(2 * MIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(() => u.bytes_acked > 0);
  assert.equal(await incoming.previous(file), "t1");
  u.cancel();
  await until(ended(u));
  await settle();
  assert.equal(await incoming.previous(file), null);
});

test("previous() forgets a ticket that doesn't fit the file, and keeps one that was replaced", async () => {
  for (const [error, kept] of [
    ["file_changed", null],
    ["unknown_upload", null],
    ["expired", null],
    ["replaced", "t1"],
  ]) {
    const { server, incoming } = world();
    const json = { error: { code: incoming.errors[error], name: error, message: "", retryable: false } };
    server.intercept = () => ({ status: 409, json });
    const file = file_of(2 * MIB);
    const u = incoming.Uploader("t1", file);
    u.start();
    await until(ended(u));
    await settle();
    assert.equal(await incoming.previous(file), kept, error);
  }
});

test("set_server_hostname is for the uploaders that are made after it", async () => {
  const { server, incoming } = world();
  incoming.set_server_hostname("other.example:8443");
  const u = incoming.Uploader("t1", file_of(100));
  u.start();
  await until(ended(u));
  assert.equal(server.requests[0].url, "https://other.example:8443/incoming/0.1/frontend/uploads/t1");
});

test("a lane isn't lost when an upload is paused in the middle of it", async () => {
  const { server, incoming } = world();
  server.intercept = ({ method }) => (method === "PUT" ? hang() : undefined);
  const stuck = incoming.Uploader("t1", file_of(2 * MIB));
  stuck.start();
  await until(() => server.count("PUT") === 1);
  stuck.pause();
  server.intercept = () => undefined;
  server.ticket("t2");
  server.active = server.most_active = 0;
  const u = incoming.Uploader("t2", file_of(6 * MIB));
  u.start();
  await until(ended(u));
  assert.equal(server.most_active, 4);
});
