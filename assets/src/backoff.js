import { clock } from "./clock.js";

const FIRST = 650;
const LONGEST = 30_000;

/**
 * How long to wait before the next attempt: the first time within a second,
 * then twice as long each time, always with jitter, so that the clients of a
 * server that was restarted don't come back in step.
 */
export class Backoff {
  #failures = 0;

  reset() {
    this.#failures = 0;
  }

  /** Milliseconds to wait. `retry_after` (seconds) is what the server asked for. */
  next(retry_after = null) {
    if (retry_after !== null) return retry_after * 1000 * (1 + clock.random() / 4);
    const middle = FIRST * 2 ** Math.min(this.#failures++, 10);
    return Math.min(LONGEST, middle * (0.5 + clock.random()));
  }
}
