import { clock } from "./clock.js";

/** Milliseconds: waits while a server that answers has no use for us. */
const FIRST = 650;
const LONGEST = 30_000;

/** While nobody answers: waits that follow how long that has lasted. */
const OFTEN = 600;
const LATER = 4000;
const LONG = 5 * 60_000;
/** So many times in a row a line may break before anything has arrived over it; then it isn't chance. */
const CHANCE = 3;

/**
 * How long to wait before the next attempt. A server that sends us away is
 * asked half as often each time. One that can't be reached is looked for all the
 * time, as the line may be back any moment: every half second at first, after a
 * quarter of a minute every few seconds, after five minutes more and more seldom. Always
 * with jitter, so that the clients of a server that was restarted don't come
 * back in step.
 */
export class Backoff {
  #refusals = 0;
  #lost_at = null;
  #in_vain = 0;

  /** Bytes have arrived: whatever was wrong is over. */
  reset() {
    this.#refusals = 0;
    this.#in_vain = 0;
    this.reached();
  }

  /** The server could be reached: the outage is over, though perhaps not what causes it. */
  reached() {
    this.#lost_at = null;
  }

  /**
   * Milliseconds to wait after `failure`. The time that the attempt itself took (`spent`) has been waited already:
   * on a dead line an attempt waits for an answer, not we for the attempt.
   */
  next(failure, spent = 0) {
    if (failure.retry_after !== null) return failure.retry_after * 1000 * (1 + clock.random() / 4);
    return failure.network ? this.#while_lost(spent) : this.#when_refused();
  }

  #when_refused() {
    const middle = FIRST * 2 ** Math.min(this.#refusals++, 10);
    return Math.min(LONGEST, middle * (0.5 + clock.random()));
  }

  #while_lost(spent) {
    if (this.#lost_at === null) this.#begin_outage();
    const jitter = (1 + clock.random()) / 2;
    const pause = Math.max(pause_after(clock.now() - this.#lost_at), this.#pause_in_vain);
    return Math.max(OFTEN * jitter, pause * jitter - spent);
  }

  #begin_outage() {
    this.#lost_at = clock.now();
    this.#in_vain += 1;
  }

  get #pause_in_vain() {
    return this.#in_vain > CHANCE ? Math.min(LONGEST, OFTEN * 2 ** (this.#in_vain - CHANCE)) : 0;
  }
}

function pause_after(outage) {
  if (outage > LONG) return Math.min(LONGEST, (LATER * outage) / LONG);
  return Math.min(LATER, outage > 10 * OFTEN ? outage / 4 : OFTEN);
}
