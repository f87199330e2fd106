// A clock that stands still until a test waits for something.

import { clock } from "../../../assets/src/clock.js";

let time = 0;
let timers = [];

clock.now = () => time;
clock.random = () => 0.5;
clock.after = (ms, f) => {
  const timer = { at: time + ms, f };
  timers.push(timer);
  return () => (timers = timers.filter((other) => other !== timer));
};

export const after = (ms, f) => clock.after(ms, f);
export const now = () => time;

// Blobs are read by another thread, which takes as long as it takes.
let reading = 0;
const read = Blob.prototype.arrayBuffer;
Blob.prototype.arrayBuffer = async function () {
  reading += 1;
  try {
    return await read.call(this);
  } finally {
    reading -= 1;
  }
};

/** Lets everything happen that needs no time: promises and the reading of blobs. */
export async function settle() {
  for (let i = 0; i < 12 || reading > 0; i++) await new Promise((resolve) => setImmediate(resolve));
}

function next_timer() {
  return timers.reduce((first, timer) => (!first || timer.at < first.at ? timer : first), null);
}

function fire(timer) {
  timers = timers.filter((other) => other !== timer);
  time = Math.max(time, timer.at);
  timer.f();
}

/** Lets time pass until `condition` holds; fails when nothing is left that could bring it about. */
export async function until(condition, limit = 3_600_000) {
  const end = time + limit;
  for (;;) {
    await settle();
    if (condition()) return;
    const timer = next_timer();
    if (!timer || timer.at > end) throw new Error(`never happened: ${condition}`);
    fire(timer);
  }
}

/** Lets `ms` milliseconds pass. */
export async function pass(ms) {
  const end = time + ms;
  await settle();
  for (let timer = next_timer(); timer && timer.at <= end; timer = next_timer()) {
    fire(timer);
    await settle();
  }
  time = end;
}

export function reset_clock() {
  timers = [];
}
