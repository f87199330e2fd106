import assert from "node:assert/strict";
import { test } from "node:test";
import { KIB, MIB, come_online, file_of, now, pass, settle, until, world } from "./support/world.mjs";
import { Backoff } from "../../assets/src/backoff.js";
import { ChunkSize, share } from "../../assets/src/chunk_size.js";
import { clock, sleep } from "../../assets/src/clock.js";
import { Failure, PASSING, lost } from "../../assets/src/errors.js";
import { fingerprint } from "../../assets/src/fingerprint.js";
import { Gaps, overlap } from "../../assets/src/gaps.js";
import { Lanes } from "../../assets/src/lanes.js";
import { Location } from "../../assets/src/location.js";
import { forget, recall, remember } from "../../assets/src/memory.js";
import { Rate } from "../../assets/src/rate.js";
import { ReadAhead } from "../../assets/src/read_ahead.js";
import { seconds } from "../../assets/src/request.js";
import { StallWatch } from "../../assets/src/stall.js";
import { header_text } from "../../assets/src/text.js";

const PAGE = "https://app.example/new?x=1";
const base = (script, hostname) => {
  const location = new Location(script, PAGE);
  if (hostname !== undefined) location.set_hostname(hostname);
  return location.base;
};

test("the server is where the script came from", () => {
  for (const [script, expected] of [
    ["https://a.example/incoming/frontend/incoming.js", "https://a.example/incoming/0.1/frontend/"],
    ["https://a.example/incoming/0.1/frontend/incoming.mjs?v=3", "https://a.example/incoming/0.1/frontend/"],
    ["http://a.example:8080/x/y/frontend/incoming.js#z", "http://a.example:8080/x/y/0.1/frontend/"],
    ["https://a.example/frontend/incoming.js", "https://a.example/0.1/frontend/"],
  ]) {
    assert.equal(base(script), expected);
  }
});

test("a copy that the app serves says nothing, so the server is at the page's host", () => {
  assert.equal(base("https://cdn.example/bundle.js"), "https://app.example/incoming/0.1/frontend/");
  assert.equal(base(undefined), "https://app.example/incoming/0.1/frontend/");
});

test("set_server_hostname replaces the host and keeps the prefix", () => {
  const script = "https://a.example/up/frontend/incoming.js";
  assert.equal(base(script, "b.example"), "https://b.example/up/0.1/frontend/");
  assert.equal(base(script, "b.example:8443"), "https://b.example:8443/up/0.1/frontend/");
  assert.equal(base(script, "[::1]:9000"), "https://[::1]:9000/up/0.1/frontend/");
  assert.equal(base(script, "http://b.example/z/"), "http://b.example/z/0.1/frontend/");
  assert.equal(base(undefined, "b.example"), "https://b.example/incoming/0.1/frontend/");
});

test("what isn't a hostname is refused", () => {
  for (const wrong of ["", "a b", "user@a.example", "http://"]) {
    assert.throws(() => base(undefined, wrong), TypeError, wrong);
  }
});

test("a page from the disk has to name the server", () => {
  const location = new Location(undefined, "file:///home/page.html");
  assert.throws(() => location.base, /set_server_hostname/);
  location.set_hostname("a.example");
  assert.equal(location.base, "https://a.example/incoming/0.1/frontend/");
});

const refused = new Failure(PASSING, "unavailable", "not now");

test("who is sent away comes back within a second, then half as often each time, never above 30 s", () => {
  world();
  const backoff = new Backoff();
  const waits = Array.from({ length: 9 }, () => backoff.next(refused));
  assert.deepEqual(waits.slice(0, 3), [650, 1300, 2600]);
  assert.equal(Math.max(...waits), 30_000);
  backoff.reset();
  assert.equal(backoff.next(refused), 650);
});

/** Times at which a server that can't be reached is looked for, in milliseconds after it was lost. */
async function attempts_until(end) {
  world();
  const backoff = new Backoff();
  const begun = now();
  const times = [];
  while (now() - begun < end) {
    await pass(backoff.next(lost("nobody there")));
    times.push(now() - begun);
  }
  return times;
}

for (const chance of [0, 0.5, 0.999]) {
  test(`a server that is back is found soon, with a chance of ${chance}`, async (t) => {
    t.mock.method(clock, "random", () => chance);
    const times = await attempts_until(3 * 3600 * 1000);
    times.forEach((time, i) => {
      const wait = time - (times[i - 1] ?? 0);
      if (time < 5000) assert.ok(wait <= 600 && wait >= 300, `${wait} ms at ${time}`);
      if (time < 240_000) assert.ok(wait <= 4000, `${wait} ms at ${time}`);
      assert.ok(wait <= 30_000);
    });
    assert.ok(times.at(-1) - times.at(-2) >= 15_000, "after hours it is looked for seldom");
  });
}

test("clients that lost their server at the same moment don't come back in step", (t) => {
  world();
  const chances = [0, 0.25, 0.5, 0.75];
  t.mock.method(clock, "random", () => chances.shift());
  const waits = Array.from({ length: 4 }, () => new Backoff().next(lost("restart")));
  assert.deepEqual(waits, [300, 375, 450, 525]);
});

test("a line that breaks again before anything has arrived is tried as soon again, but not for ever", async () => {
  world();
  const backoff = new Backoff();
  const waits = [];
  for (let i = 0; i < 9; i++) {
    waits.push(backoff.next(lost("cut")));
    await pass(20_000);
    backoff.reached();
  }
  assert.deepEqual(waits.slice(0, 5), [450, 450, 450, 900, 1800]);
  assert.equal(Math.max(...waits), 22_500);
  backoff.reset();
  assert.equal(backoff.next(lost("cut")), 450);
});

test("an attempt that waited long for an answer is followed by the next one at once", async () => {
  world();
  const backoff = new Backoff();
  assert.equal(backoff.next(lost("first")), 450);
  await pass(60_000);
  assert.equal(backoff.next(lost("refused at once")), 3000);
  assert.equal(backoff.next(lost("waited"), 2000), 1000);
  assert.equal(backoff.next(lost("waited"), 4000), 450);
});

test("jitter stays within 0.3 to 1 s for the first retry", (t) => {
  const random = t.mock.method(clock, "random", () => 0);
  assert.equal(new Backoff().next(refused), 325);
  random.mock.mockImplementation(() => 0.999);
  assert.ok(new Backoff().next(refused) < 1000);
});

test("a time that the server names is never cut short", () => {
  const named = (retry_after) => new Failure(PASSING, "unavailable", "later", { retry_after });
  assert.equal(new Backoff().next(named(7), 60_000), 7 * 1000 * 1.125);
  assert.equal(new Backoff().next(named(0)), 0);
});

test("Retry-After may be seconds, a date, or nonsense", () => {
  assert.equal(seconds("120"), 120);
  assert.equal(seconds("-3"), 0);
  assert.equal(seconds(null), null);
  assert.equal(seconds("soon"), null);
  const left = seconds(new Date(Date.now() + 60_000).toUTCString());
  assert.ok(left > 55 && left <= 60);
});

test("sleep ends early when the network is back, but only if asked to", async () => {
  world();
  let awake = "";
  sleep(10_000, { online: true }).then(() => (awake += "a"));
  sleep(10_000).then(() => (awake += "b"));
  await settle();
  come_online();
  await settle();
  assert.equal(awake, "a");
  await until(() => awake === "ab");
});

test("a chunk becomes as long as the line takes in two seconds, up to what the server takes", () => {
  const size = new ChunkSize();
  assert.equal(size.within(64 * MIB), 512 * KIB);
  size.took(512 * KIB, 500);
  assert.equal(size.within(64 * MIB), 2 * MIB);
  size.took(2 * MIB, 1600);
  assert.equal(size.within(64 * MIB), 2.5 * MIB);
  assert.equal(size.within(768 * KIB), 768 * KIB);
});

test("on a long and fast line the second step is a large one, but no chunk proves everything", () => {
  const size = new ChunkSize();
  size.took(512 * KIB, 1);
  assert.equal(size.within(64 * MIB), 8 * MIB);
  size.took(8 * MIB, 160);
  assert.equal(size.within(64 * MIB), 64 * MIB);
});

test("a chunk that is much shorter than usual can't make the next ones smaller", () => {
  const size = new ChunkSize();
  size.took(512 * KIB, 100);
  size.took(100 * KIB, 2000);
  assert.equal(size.within(64 * MIB), 8 * MIB);
});

test("chunks shrink when they are slow, once for all that were sent together", () => {
  const size = new ChunkSize();
  for (let lane = 0; lane < 4; lane++) size.took(512 * KIB, 8000);
  assert.equal(size.within(8 * MIB), 128 * KIB);
  for (let i = 0; i < 9; i++) size.took(size.within(MIB), 8000);
  assert.equal(size.within(8 * MIB), 64 * KIB);
});

test("where even the smallest chunks take long, fewer lanes are used", () => {
  const size = new ChunkSize();
  assert.equal(size.lanes(4), 4);
  size.took(64 * KIB, 4000);
  size.took(64 * KIB, 4000);
  assert.equal(size.lanes(4), 4);
  size.took(512 * KIB, 52_000);
  assert.deepEqual([size.within(8 * MIB), size.lanes(4)], [64 * KIB, 2]);
  size.took(64 * KIB, 60_000);
  assert.equal(size.lanes(4), 1);
});

test("near the end chunks are shorter, so that all lanes are at work until it is reached", () => {
  assert.equal(share(8 * MIB, 100 * MIB, 4), 8 * MIB);
  assert.equal(share(8 * MIB, 16 * MIB, 4), 4 * MIB);
  assert.equal(share(8 * MIB, 2 * MIB, 4), MIB);
  assert.equal(share(256 * KIB, 10 * KIB, 4), 64 * KIB);
  assert.equal(share(32 * KIB, 10 * KIB, 4), 32 * KIB);
});

test("a refused length is never tried again, and 64 KiB is the floor", () => {
  const size = new ChunkSize();
  assert.equal(size.refused(512 * KIB), true);
  assert.equal(size.refused(512 * KIB), true);
  size.took(256 * KIB, 10);
  size.took(512 * KIB, 10);
  assert.equal(size.within(8 * MIB), 256 * KIB);
  size.refused(100 * KIB);
  assert.equal(size.within(8 * MIB), 64 * KIB);
  assert.equal(size.refused(64 * KIB), false);
});

test("the limit of a proxy is found in few steps between what has arrived and what was refused", () => {
  const size = new ChunkSize();
  size.took(512 * KIB, 10);
  size.refused(8 * MIB);
  assert.equal(size.within(64 * MIB), 2 * MIB);
  size.refused(2 * MIB);
  assert.equal(size.within(64 * MIB), 1 * MIB);
  size.took(1 * MIB, 10);
  size.refused(1 * MIB);
  assert.equal(size.within(64 * MIB), 512 * KIB);
});

test("gaps give out ranges in order and take them back", () => {
  const gaps = new Gaps([
    [0, 10],
    [20, 25],
    [30, 30],
  ]);
  assert.deepEqual(gaps.take(6), [0, 6]);
  assert.deepEqual(gaps.take(6), [6, 10]);
  gaps.put_back([0, 6]);
  assert.deepEqual(gaps.take(100), [0, 6]);
  assert.deepEqual(gaps.take(100), [20, 25]);
  assert.equal(gaps.empty, true);
  assert.equal(gaps.take(1), null);
});

test("overlap finds what is missing of a range", () => {
  assert.deepEqual(
    overlap(
      [
        [0, 5],
        [8, 20],
        [30, 40],
      ],
      [3, 10],
    ),
    [
      [3, 5],
      [8, 10],
    ],
  );
  assert.deepEqual(overlap([[0, 5]], [5, 10]), []);
});

test("a free lane goes to the upload that holds the fewest", async () => {
  const lanes = new Lanes(4);
  const [a, b] = [{}, {}];
  const held = [];
  for (let i = 0; i < 6; i++) lanes.take(a).then((release) => held.push(["a", release]));
  await settle();
  assert.equal(held.length, 4);
  for (let i = 0; i < 3; i++) lanes.take(b).then((release) => held.push(["b", release]));
  held[0][1]();
  held[1][1]();
  await settle();
  assert.deepEqual(held.map(([who]) => who).join(""), "aaaabb");
  held[1][1]();
  await settle();
  assert.equal(held.length, 6, "giving a lane back twice frees one lane only");
});

test("who leaves the queue for a lane doesn't get one", async () => {
  const lanes = new Lanes(1);
  const stop = new AbortController();
  const release = await lanes.take("a");
  const answer = lanes.take("b", stop.signal);
  stop.abort();
  assert.equal(await answer, null);
  release();
  assert.ok(await lanes.take("c"));
});

test("the rate is unknown at first and follows the last seconds", async () => {
  world();
  const rate = new Rate();
  rate.add(0);
  assert.equal(rate.bytes_per_second, null);
  await pass(500);
  rate.add(1000);
  assert.equal(rate.bytes_per_second, null);
  await pass(500);
  rate.add(2000);
  assert.equal(rate.bytes_per_second, 2000);
  for (let i = 1; i <= 40; i++) {
    await pass(1000);
    rate.add(2000 + i * 100);
  }
  assert.equal(Math.round(rate.bytes_per_second), 100);
});

test("the rate falls while nothing arrives", async () => {
  world();
  const rate = new Rate();
  rate.add(0);
  await pass(1000);
  rate.add(10_000);
  await pass(9000);
  assert.equal(rate.bytes_per_second, 1000);
});

/** A watch whose witness says what `tell` says; `waits` are the milliseconds that it was given. */
function watch_with(tell) {
  const waits = [];
  const stalls = [];
  const watch = new StallWatch((ms) => (waits.push(ms), tell(ms)));
  const stall = async () => {
    const begun = now();
    const count = stalls.length;
    watch.start(() => stalls.push(now() - begun));
    await until(() => stalls.length > count);
    return stalls[count];
  };
  return { watch, waits, stalls, stall };
}

const silence = () => new Promise(() => {});
const nobody = () => Promise.reject(lost("refused"));
const someone = () => Promise.resolve(0);

for (const [what, tell] of [
  ["says nothing", silence],
  ["can't be asked", nobody],
]) {
  test(`where the witness ${what}, a stall is noticed within 10 s, and patience doubles until something is confirmed`, async () => {
    world();
    const { watch, waits, stall } = watch_with(tell);
    assert.equal(await stall(), 8500);
    assert.equal(await stall(), 17_000);
    assert.deepEqual(waits, [5000, 10_000]);
    watch.start(() => {});
    watch.confirmed();
    assert.equal(await stall(), 8500);
  });
}

test("while the server answers beside it, half a minute of stillness is no stall", async () => {
  world();
  const { waits, stall } = watch_with(someone);
  const took = await stall();
  assert.ok(took >= 30_000 && took < 35_000, `${took} ms`);
  assert.ok(waits.length > 5, "it is asked again and again");
});

test("a server that falls silent later is noticed within 10 s of its last word", async () => {
  world();
  let silent_at = Infinity;
  const { watch, stalls } = watch_with(() => (now() >= silent_at ? silence() : someone()));
  watch.start(() => stalls.push(now()));
  await pass(15_000);
  silent_at = now();
  await until(() => stalls.length > 0);
  assert.ok(now() - silent_at <= 10_000, `${now() - silent_at} ms`);
});

test("bytes that arrive at the server are movement, although the browser sees none", async () => {
  world();
  const { watch, stalls } = watch_with(() => Promise.resolve(Math.floor(now())));
  watch.start(() => stalls.push(now()));
  await pass(200_000);
  assert.deepEqual(stalls, []);
  watch.stop();
});

test("what a witness says after everything moved again counts for nothing", async () => {
  world();
  let answer;
  const { watch, stalls } = watch_with(() => new Promise((resolve) => (answer = resolve)));
  watch.start(() => stalls.push(now()));
  await pass(4000);
  watch.moved();
  answer(0);
  await pass(8000);
  watch.stop();
  await pass(60_000);
  assert.deepEqual(stalls, []);
});

test("what is confirmed late may be as late again", async () => {
  world();
  const { watch, stalls } = watch_with(silence);
  watch.start(() => stalls.push(now()));
  await pass(8000);
  watch.confirmed();
  await pass(15_500);
  assert.equal(stalls.length, 0);
  watch.confirmed();
  watch.moved();
  watch.confirmed();
  await pass(8500);
  assert.equal(stalls.length, 1);
});

test("movement keeps a stall away", async () => {
  world();
  const { watch, stalls, waits } = watch_with(silence);
  watch.start(() => stalls.push(now()));
  for (let i = 0; i < 15; i++) {
    await pass(3000);
    watch.moved();
  }
  assert.deepEqual([stalls.length, waits.length], [0, 0]);
  watch.stop();
  watch.moved();
  await pass(60_000);
  assert.equal(stalls.length, 0);
});

test("a file is read a few pieces ahead, in order, and no further", async () => {
  const file = file_of(100);
  const read = [];
  const slice = file.slice.bind(file);
  file.slice = (start, end) => (read.push([start, end]), slice(start, end));
  const ahead = new ReadAhead(file, 10);
  ahead.prepare(2, 30);
  assert.deepEqual(read.length, 2);
  assert.deepEqual(new Uint8Array(await ahead.take()), file.content.slice(10, 40));
  ahead.prepare(3, 20);
  ahead.prepare(3, 20);
  assert.deepEqual(read, [
    [10, 40],
    [40, 70],
    [70, 90],
    [90, 100],
  ]);
});

test("a piece that can't be read is reported to who takes it", async () => {
  const ahead = new ReadAhead({ size: 10, slice: () => ({ arrayBuffer: () => Promise.reject(new Error("no")) }) }, 0);
  ahead.prepare(1, 10);
  await settle();
  await assert.rejects(ahead.take());
});

test("a fingerprint tells files apart by name, length, date and samples", async () => {
  const print = (size, name, seed) => fingerprint(file_of(size, name, seed));
  const one = await print(300 * KIB);
  assert.match(one, /^[A-Za-z0-9._:-]{1,128}$/);
  assert.equal(await print(300 * KIB), one);
  for (const other of [print(300 * KIB + 1), print(300 * KIB, "b.mov"), print(300 * KIB, "film.mov", 2)]) {
    assert.notEqual(await other, one);
  }
  assert.match(await print(0), /^1-0-[0-9a-f]{16}$/);
});

test("a fingerprint reads no more than three samples", async () => {
  const file = file_of(1024 * KIB);
  const slice = file.slice.bind(file);
  let bytes = 0;
  file.slice = (start, end) => ((bytes += end - start), slice(start, end));
  await fingerprint(file);
  assert.equal(bytes, 3 * 64 * KIB);
});

test("a file that couldn't be read is read again the next time", async () => {
  const file = file_of(10);
  const slice = file.slice.bind(file);
  file.slice = () => ({ arrayBuffer: () => Promise.reject(new Error("no")) });
  await assert.rejects(fingerprint(file));
  file.slice = slice;
  assert.ok(await fingerprint(file));
});

test("memory forgets only the ticket that it is asked to forget", () => {
  world();
  remember("1-5-a", "t1");
  forget("1-5-a", "t2");
  assert.equal(recall("1-5-a"), "t1");
  forget("1-5-a", "t1");
  assert.equal(recall("1-5-a"), null);
});

test("memory drops what is older than two weeks, and leaves what isn't ours", (t) => {
  world();
  remember("1-5-a", "t1");
  localStorage.setItem("other", "x");
  const later = Date.now() + 15 * 24 * 3600 * 1000;
  t.mock.method(Date, "now", () => later);
  assert.equal(recall("1-5-a"), null);
  remember("1-5-b", "t2");
  assert.equal(localStorage.length, 2);
  assert.equal(recall("1-5-b"), "t2");
});

test("memory does without a storage, or with a broken one", () => {
  world();
  localStorage.setItem("incoming:x", "{not json");
  assert.equal(recall("x"), null);
  globalThis.localStorage = undefined;
  remember("1-5-a", "t1");
  assert.equal(recall("1-5-a"), null);
});

test("any file name fits into a header", () => {
  assert.equal(header_text("für dich.txt"), "f%C3%BCr%20dich.txt");
  assert.equal(header_text("\ud800 broken 😀"), "%EF%BF%BD%20broken%20%F0%9F%98%80");
});
