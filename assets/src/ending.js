import { sleep } from "./clock.js";

const WAIT = 25;
const SHORTEST = 300;
const LONGEST = 2000;

/**
 * Waits for news of an upload that is being processed. One upload of the page
 * at a time asks the server to hold its answer back, the others ask now and
 * then, one after the other, so that the page keeps connections for its own use.
 */
export class Ending {
  #page;
  #resource;
  #pause = 0;

  constructor(page, resource) {
    this.#page = page;
    this.#resource = resource;
  }

  /** A status that differs from `version`, or just the next one. */
  async next(version, signal) {
    // Some servers can't hold an answer back, so we never rely on that to slow us down.
    await sleep(this.#pause, { signal });
    const status = await (this.#page.claim_long_poll(this) ? this.#long(version, signal) : this.#short(signal));
    this.#pause = status.version === version ? clamp(this.#pause * 1.5) : SHORTEST;
    return status;
  }

  #long(version, signal) {
    return this.#resource.next_status(version, WAIT, signal).finally(() => this.#page.leave_long_poll(this));
  }

  async #short(signal) {
    const release = await this.#page.polls.take(this, signal);
    return this.#resource.status(signal).finally(() => release?.());
  }
}

const clamp = (ms) => Math.min(LONGEST, Math.max(SHORTEST, ms));
