import { clock } from "./clock.js";

const WINDOW = 15_000;
const LEAST = 1000;

/** Speed over the last seconds, from acknowledged bytes: what was sent may still be in a buffer. */
export class Rate {
  #samples = [];

  reset() {
    this.#samples = [];
  }

  add(bytes) {
    const time = clock.now();
    const last = this.#samples[this.#samples.length - 1];
    if (last && last.bytes === bytes) return;
    this.#samples.push({ time, bytes });
    // The newest sample outside the window stays: the window begins there.
    while (this.#samples.length > 2 && this.#samples[1].time < time - WINDOW) this.#samples.shift();
  }

  /** Bytes per second; null while there is too little to tell. */
  get bytes_per_second() {
    if (this.#samples.length < 2) return null;
    const first = this.#samples[0];
    const last = this.#samples[this.#samples.length - 1];
    const elapsed = clock.now() - first.time;
    return elapsed < LEAST ? null : ((last.bytes - first.bytes) * 1000) / elapsed;
  }
}
