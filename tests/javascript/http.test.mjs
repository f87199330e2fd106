import assert from "node:assert/strict";
import { test } from "node:test";
import {
  KIB,
  MIB,
  after,
  come_online,
  ended,
  file_of,
  listen,
  now,
  pass,
  refuse,
  same,
  settle,
  until,
  world,
} from "./support/world.mjs";

const html = (status) => ({ status, text: "<html>proxy</html>" });
const only = { transport: "http" };

test("a large file arrives whole, over at most four lanes", async () => {
  const { server, upload, incoming } = world();
  const file = file_of(3 * MIB + 17);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  assert.ok(same(upload.bytes, file.content));
  assert.equal(server.most_active, 4);
  assert.equal(server.count("POST"), 1);
  assert.deepEqual(
    [u.frac_complete, u.bytes_tx, u.bytes_acked, u.bytes_ahead, u.chunks_ahead],
    [1, file.size, file.size, 0, 0],
  );
});

test("the first chunk of a page goes alone", async () => {
  const { server, incoming } = world();
  server.intercept = ({ method }) => (method === "PUT" ? "hang" : undefined);
  incoming.Uploader("t1", file_of(3 * MIB)).start();
  await until(() => server.count("PUT") === 1);
  await pass(5000);
  assert.equal(server.count("PUT"), 1);
});

for (const when of ["sent", "processed"]) {
  test(`bytes that a disk lost while the file was ${when} are sent again`, async () => {
    const { server, upload, incoming } = world();
    const file = file_of(3 * MIB + 17);
    server.finishes = false;
    const u = incoming.Uploader("t1", file);
    u.start();
    await until(() => (when === "sent" ? u.bytes_acked > MIB : upload.state === "completing"));
    if (when === "processed") await pass(3000);
    upload.bytes.fill(0, MIB);
    server.take_back(upload, MIB);
    server.finishes = true;
    await until(ended(u));
    assert.equal(u.finished, true);
    assert.ok(same(upload.bytes, file.content));
    assert.equal(server.count("POST"), 2);
  });
}

test("a small file needs one request", async () => {
  const { server, upload, incoming } = world();
  const file = file_of(200 * KIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.deepEqual([server.count("POST"), server.count("PUT")], [1, 0]);
  assert.ok(same(upload.bytes, file.content));
  assert.deepEqual([u.chunks_tx_now, u.chunks_acked_now], [1, 1]);
});

test("an empty file arrives, and is complete only then", async () => {
  const { upload, incoming } = world();
  const u = incoming.Uploader("t1", file_of(0));
  assert.equal(u.frac_complete, 0);
  u.start();
  await until(ended(u));
  assert.deepEqual([u.finished, u.frac_complete, upload.length], [true, 1, 0]);
});

test("name, length and fingerprint are told when it is opened", async () => {
  const { server, incoming } = world();
  const u = incoming.Uploader("t1", file_of(5, "Fjord å.txt"));
  u.start();
  await until(ended(u));
  const { url, headers } = server.requests[0];
  assert.equal(url, "https://files.example/incoming/0.1/frontend/uploads/t1");
  assert.equal(headers["Incoming-Name"], "Fjord%20%C3%A5.txt");
  assert.equal(headers["Incoming-Length"], "5");
  assert.match(headers["Incoming-Fingerprint"], /^1-5-[0-9a-f]{16}$/);
});

test("openings are told apart, and the later one by its number", async () => {
  const { server, incoming } = world();
  server.intercept = () => (server.requests.length === 1 ? "lost" : undefined);
  const u = incoming.Uploader("t1", file_of(400 * KIB));
  u.start();
  await until(ended(u));
  const openings = server.requests.filter(({ method }) => method === "POST");
  const [first, second] = openings.map(({ headers }) => headers["Incoming-Opening"].split("."));
  assert.match(first[0], /^[a-z0-9]{1,32}$/);
  assert.equal(first[0], second[0]);
  assert.equal(Number(second[1]), Number(first[1]) + 1);
});

test("a small file whose only request is lost is opened and sent separately", async () => {
  const { server, upload, incoming } = world();
  server.intercept = () => (server.requests.length === 1 ? "lost" : undefined);
  const file = file_of(100 * KIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.deepEqual([server.count("POST"), server.count("PUT")], [2, 1]);
  assert.ok(same(upload.bytes, file.content));
});

test("after a lost chunk it asks what is missing and doesn't open again", async () => {
  const { server, upload, incoming } = world();
  let lost = 0;
  server.intercept = ({ method }) => (method === "PUT" && server.count("PUT") > 3 && lost++ < 2 ? "lost" : undefined);
  const file = file_of(4 * MIB);
  const u = incoming.Uploader("t1", file);
  const heard = listen(u);
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  assert.ok(same(upload.bytes, file.content));
  assert.equal(server.count("POST"), 1);
  assert.ok(heard.some(({ msg }) => msg === "connection lost, trying again"));
});

test("gaps are filled and what is safe isn't sent again", async () => {
  const { server, upload, incoming } = world();
  const file = file_of(2 * MIB);
  const first = incoming.Uploader("t1", file, only);
  server.intercept = ({ method }) => (method === "PUT" ? "hang" : undefined);
  first.start();
  await until(() => server.count("PUT") === 1);
  first.pause();
  server.intercept = () => undefined;
  server.store(upload, 300 * KIB, file.content.subarray(300 * KIB, 900 * KIB));
  server.requests = [];
  first.start();
  await until(ended(first));
  assert.ok(same(upload.bytes, file.content));
  const sent = server.requests.filter(({ method }) => method === "PUT").reduce((sum, { body }) => sum + body.length, 0);
  assert.equal(sent, file.size - 600 * KIB);
});

test("a server that keeps only a prefix gets the rest again", async () => {
  const { server, upload, incoming } = world();
  server.keeps = (bytes) => Math.ceil(bytes / 2);
  const file = file_of(1.5 * MIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  assert.ok(same(upload.bytes, file.content));
});

test("a server that keeps nothing isn't hammered", async () => {
  const { server, incoming } = world();
  server.keeps = () => 0;
  incoming.Uploader("t1", file_of(2 * MIB), only).start();
  await until(() => server.count("PUT") > 0);
  await pass(60_000);
  assert.ok(server.count("PUT") < 80, `${server.count("PUT")} chunks in a minute`);
});

test("a 413 halves the chunk, and the page remembers", async () => {
  const { server, incoming } = world();
  server.chunk_size = 8 * MIB;
  server.intercept = ({ body }) => (body.length > 100 * KIB ? html(413) : undefined);
  const file = file_of(2 * MIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  server.ticket("t2");
  server.requests = [];
  const second = incoming.Uploader("t2", file);
  second.start();
  await until(ended(second));
  assert.equal(Math.max(...server.requests.map(({ body }) => body.length)), 64 * KIB);
});

test("a small file refused with 413 is sent in chunks", async () => {
  const { server, upload, incoming } = world();
  server.intercept = ({ body }) => (body.length > 400 * KIB ? html(413) : undefined);
  const file = file_of(900 * KIB);
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.ok(u.finished && same(upload.bytes, file.content));
});

test("a 413 that the browser hides is found out, in seconds", async () => {
  const { server, upload, incoming } = world();
  server.intercept = ({ body }) => (body.length > 100 * KIB ? "lost" : undefined);
  const file = file_of(2 * MIB);
  const u = incoming.Uploader("t1", file, only);
  const begun = now();
  u.start();
  await until(ended(u));
  assert.ok(u.finished && same(upload.bytes, file.content));
  assert.ok(now() - begun < 15_000, `${now() - begun} ms`);
});

test("a broken connection isn't taken for a refused length", async () => {
  const { server, incoming } = world();
  server.intercept = () => (server.requests.length > 3 && server.requests.length < 12 ? "lost" : undefined);
  const u = incoming.Uploader("t1", file_of(4 * MIB), only);
  u.start();
  await until(ended(u));
  assert.ok(Math.max(...server.requests.slice(12).map(({ body }) => body.length)) > 128 * KIB);
});

test("Retry-After is honoured, and the person hears what is going on", async () => {
  const { server, incoming } = world();
  const full = refuse(507, "no_space", { headers: { "Retry-After": "20" } });
  server.intercept = ({ method }) => (method === "PUT" && server.count("PUT") === 1 ? full : undefined);
  const u = incoming.Uploader("t1", file_of(2 * MIB));
  u.start();
  await until(() => u.state_msg === "waiting for space on the server");
  const at = server.requests.length;
  come_online();
  await pass(19_000);
  assert.equal(server.requests.length, at);
  await until(ended(u));
  assert.equal(u.finished, true);
});

test("a busy server is tried again: 429, 423, 503 and a proxy's 502", async () => {
  for (const answer of [refuse(429, "over_quota"), html(423), refuse(503, "unavailable"), html(502), html(522)]) {
    const { server, incoming } = world();
    server.intercept = () => (server.requests.length === 2 ? answer : undefined);
    const u = incoming.Uploader("t1", file_of(2 * MIB));
    u.start();
    await until(ended(u));
    assert.equal(u.finished, true, JSON.stringify(answer));
  }
});

test("it never gives up on a network error, and comes back when the network does", async () => {
  const { server, incoming } = world();
  const u = incoming.Uploader("t1", file_of(2 * MIB), only);
  u.start();
  await until(() => u.bytes_acked > 0);
  server.intercept = () => "lost";
  await pass(3 * 3600 * 1000);
  assert.deepEqual([u.phase, u.connected, u.error_code], ["uploading", false, 0]);
  server.intercept = () => undefined;
  await until(() => u.state_msg === "connection lost, trying again");
  const at = now();
  come_online();
  await until(() => u.connected);
  assert.ok(now() - at < 1000);
  await until(ended(u));
  assert.equal(u.finished, true);
});

for (const [what, reaches, bound] of [
  ["nothing comes through any more", () => false, 10_000],
  ["one connection is dead and the server answers over others", ({ method }) => method !== "PUT", 40_000],
]) {
  test(`${what}: that is noticed, and it goes on`, async () => {
    const { server, incoming } = world();
    let hung = false;
    server.intercept = (request) => {
      hung ||= request.method === "PUT" && server.count("PUT") === 2;
      return hung && !reaches(request) ? "hang" : undefined;
    };
    const u = incoming.Uploader("t1", file_of(800 * KIB + MIB));
    u.start();
    await until(() => hung);
    const begun = now();
    await until(() => !u.connected);
    assert.ok(now() - begun <= bound, `${now() - begun} ms`);
    server.intercept = () => undefined;
    await until(ended(u));
    assert.equal(u.finished, true);
  });
}

test("a black hole that ends is left within seconds, although questions are still stuck in it", async () => {
  for (const length of [12_000, 30_000, 61_000, 200_000]) {
    const { server, incoming } = world();
    const u = incoming.Uploader("t1", file_of(4 * MIB), only);
    u.start();
    await until(() => server.count("PUT") > 3);
    server.intercept = () => "hang";
    await pass(length);
    assert.equal(u.connected, false);
    server.intercept = () => undefined;
    const begun = now();
    await until(() => u.connected);
    assert.ok(now() - begun <= 5000, `${now() - begun} ms`);
    await until(ended(u));
    assert.equal(u.finished, true);
  }
});

test("a slow line that shows no movement is no black hole: 20 kB/s with all in the browser's buffer", async () => {
  const { server, upload, incoming } = world();
  server.intercept = (request) => {
    if (request.method !== "PUT") return undefined;
    request.xhr.progress(request.body.length);
    after(request.body.length / 20, () => request.xhr.answer(server.handle(request)));
    return "hang";
  };
  const file = file_of(1.5 * MIB);
  const u = incoming.Uploader("t1", file, only);
  const heard = listen(u);
  u.start();
  await until(ended(u));
  assert.ok(u.finished && same(upload.bytes, file.content));
  assert.ok(!heard.some(({ msg }) => msg.includes("lost")));
  assert.equal(server.count("PUT") > 5, true);
});

test("lanes end out of step", async () => {
  const { server, incoming } = world();
  server.chunk_size = 64 * MIB;
  const u = incoming.Uploader("t1", file_of(40 * MIB), only);
  u.start();
  await until(ended(u));
  const sizes = server.requests.filter(({ method }) => method === "PUT").map(({ body }) => body.length);
  assert.equal(sizes[0], 512 * KIB);
  assert.equal(new Set(sizes.slice(1, 5)).size, 4);
});

test("a server that takes its time to complete the file isn't taken for a broken connection", async () => {
  const { server, upload, incoming } = world();
  let last;
  server.intercept = (request) => {
    if (request.method !== "PUT" || server.received(upload) + request.body.length < upload.length) return undefined;
    last = request;
    return "hang";
  };
  const u = incoming.Uploader("t1", file_of(1.2 * MIB), only);
  server.lanes = 1;
  u.start();
  await until(() => last);
  last.xhr.progress(last.body.length);
  await pass(25_000);
  assert.equal(u.connected, true);
  await until(() => !u.connected);
});

test("slow but steady isn't stalled", async () => {
  const { server, incoming } = world();
  let slow;
  server.intercept = (request) =>
    request.method === "PUT" && server.count("PUT") === 1 ? ((slow = request.xhr), "hang") : undefined;
  const u = incoming.Uploader("t1", file_of(2 * MIB), only);
  u.start();
  await until(() => slow);
  for (let i = 1; i <= 10; i++) {
    await pass(8000);
    slow.progress(i * 1000);
  }
  assert.equal(u.connected, true);
  assert.deepEqual([u.bytes_tx, u.bytes_acked, u.bytes_ahead], [10_000, 0, 10_000]);
});

for (const [status, name] of [
  [409, "file_changed"],
  [404, "unknown_upload"],
  [410, "expired"],
  [403, "forbidden_origin"],
  [401, "unauthorized"],
]) {
  test(`opening refused with ${name} is the end`, async () => {
    const { server, incoming } = world();
    server.intercept = () => refuse(status, name);
    const u = incoming.Uploader("t1", file_of(2 * MIB));
    const heard = listen(u);
    u.start();
    await until(ended(u));
    assert.equal(u.error_code, incoming.errors[name]);
    assert.deepEqual([u.phase, u.error_msg, u.can_cancel, u.can_pause], ["failed", `it is ${name}`, false, false]);
    assert.deepEqual(
      heard.slice(-2).map(({ name }) => name),
      ["onprogress", "onerror"],
    );
    await pass(120_000);
    assert.equal(server.requests.length, 1);
  });
}

test("who has been replaced doesn't come back", async () => {
  const { server, upload, incoming } = world();
  const u = incoming.Uploader("t1", file_of(3 * MIB));
  u.start();
  await until(() => server.count("PUT") >= 2);
  upload.session = "somebody else";
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.replaced);
  const count = server.requests.length;
  await pass(600_000);
  assert.equal(server.requests.length, count);
});

test("a ticket that was cancelled elsewhere is cancelled here, with its reason", async () => {
  const { server, upload, incoming } = world();
  server.finishes = false;
  const u = incoming.Uploader("t1", file_of(100));
  const heard = listen(u);
  u.start();
  await until(() => u.phase === "processing");
  server.change(upload, "cancelled", "the app says no");
  await until(ended(u));
  assert.deepEqual([u.cancelled, u.cancel_msg, u.error_code], [true, "the app says no", 0]);
  assert.equal(heard.at(-1).name, "oncancelled");
});

test("a ticket that was cancelled before it is opened is cancelled", async () => {
  const { server, upload, incoming } = world();
  server.change(upload, "cancelled");
  const u = incoming.Uploader("t1", file_of(100));
  u.start();
  await until(ended(u));
  assert.equal(u.cancelled, true);
});

test("opening a finished upload again is finished", async () => {
  const { server, upload, incoming } = world();
  const file = file_of(2 * MIB);
  const first = incoming.Uploader("t1", file);
  first.start();
  await until(ended(first));
  const chunks = server.count("PUT");
  const again = incoming.Uploader("t1", file);
  again.start();
  await until(ended(again));
  assert.equal(again.finished, true);
  assert.equal(server.count("PUT"), chunks);
});

test("an upload that the app doesn't take ends with the reason", async () => {
  const { server, upload, incoming } = world();
  server.finishes = false;
  const u = incoming.Uploader("t1", file_of(100));
  u.start();
  await until(() => u.phase === "processing");
  server.change(upload, "undeliverable", "nobody answers");
  await until(ended(u));
  assert.deepEqual([u.error_code, u.error_msg], [incoming.errors.undeliverable, "nobody answers"]);
});

test("a file that changed on the disk is the end, not a network error", async () => {
  const { server, incoming } = world();
  const file = file_of(2 * MIB);
  const u = incoming.Uploader("t1", file, only);
  server.intercept = ({ method }) => {
    if (method !== "PUT") return undefined;
    file.slice = () => ({ arrayBuffer: () => Promise.reject(new DOMException("gone", "NotReadableError")) });
    return "lost";
  };
  u.start();
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.file_unreadable);
});

test("a file that can't be read at all is an error before anything is sent", async () => {
  const { server, incoming } = world();
  const file = file_of(2 * MIB);
  file.slice = () => ({ arrayBuffer: () => Promise.reject(new Error("no")) });
  const u = incoming.Uploader("t1", file);
  u.start();
  await until(ended(u));
  assert.equal(u.error_code, incoming.errors.file_unreadable);
  assert.equal(server.requests.length, 0);
});

test("waiting for the end doesn't hammer a server that answers at once", async () => {
  const { server, incoming } = world();
  server.finishes = false;
  const u = incoming.Uploader("t1", file_of(100));
  u.start();
  await until(() => u.phase === "processing");
  await pass(60_000);
  assert.ok(server.count("GET") < 40 && server.count("GET") > 20, `${server.count("GET")} in a minute`);
});

test("only one upload of the page waits at the server", async () => {
  const { server, incoming } = world();
  server.finishes = false;
  let waiting = 0;
  server.intercept = ({ url }) => (url.includes("wait=") && ++waiting ? "hang" : undefined);
  const uploads = ["a", "b", "c"].map((id) => (server.ticket(id), incoming.Uploader(id, file_of(100))));
  uploads.forEach((u) => u.start());
  await until(() => uploads.every((u) => u.phase === "processing"));
  await pass(20_000);
  assert.equal(waiting, 1);
  for (const id of ["b", "c"]) server.change(server.uploads.get(id), "finished");
  await until(() => uploads.filter((u) => u.finished).length === 2);
});

test("can_cancel ends when the hand-over begins", async () => {
  const { server, upload, incoming } = world();
  server.finishes = false;
  const u = incoming.Uploader("t1", file_of(100));
  u.start();
  await until(() => u.phase === "processing");
  assert.equal(u.can_cancel, true);
  server.change(upload, "handing_over");
  await until(() => !u.can_cancel);
  assert.deepEqual([u.phase, u.connected, u.can_pause], ["processing", true, false]);
  server.change(upload, "finished");
  await until(() => u.finished);
});

test("uploads of one page share its lanes fairly", async () => {
  const { server, incoming } = world();
  server.ticket("a");
  server.ticket("b");
  const a = incoming.Uploader("a", file_of(8 * MIB));
  const b = incoming.Uploader("b", file_of(2 * MIB));
  a.start();
  await until(() => server.count("PUT") > 3);
  b.start();
  await until(() => b.finished);
  assert.equal(a.finished, false);
  assert.equal(server.most_active <= 6, true);
  await until(() => a.finished);
});

test("a hundred small files don't need a hundred connections", async () => {
  const { server, incoming } = world();
  const uploads = Array.from({ length: 100 }, (_, i) => {
    server.ticket(`n${i}`);
    return incoming.Uploader(`n${i}`, file_of(1000, `${i}.txt`));
  });
  uploads.forEach((u) => u.start());
  await until(() => uploads.every((u) => u.finished));
  assert.ok(server.most_active <= 6, `${server.most_active}`);
});

test("the rate is known while it is uploading, and only then", async () => {
  const { server, incoming } = world();
  server.latency = 500;
  const u = incoming.Uploader("t1", file_of(6 * MIB));
  u.start();
  assert.deepEqual([u.bytes_per_second, u.seconds_left], [null, null]);
  await until(() => u.bytes_acked > 3 * MIB);
  await pass(1);
  assert.ok(u.bytes_per_second > 100 * KIB);
  assert.ok(Math.abs(u.seconds_left - (u.bytes_total - u.bytes_acked) / u.bytes_per_second) < 0.01);
  u.pause();
  assert.equal(u.bytes_per_second, null);
});

test("something else that answers 200 isn't taken for the server", async (t) => {
  const warn = t.mock.method(console, "warn", () => {});
  const { server, incoming } = world();
  server.intercept = () => (server.requests.length < 4 ? { status: 200, text: "<html>log in</html>" } : undefined);
  const u = incoming.Uploader("t1", file_of(100), only);
  u.start();
  await until(ended(u));
  assert.equal(u.finished, true);
  assert.equal(warn.mock.callCount(), 1);
});
