const KIB = 1024;
const START = 512 * KIB;
const FLOOR = 64 * KIB;
const QUICK = 1000;
const SLOW = 5000;

/**
 * How large a chunk the page sends. The server names the most that it takes; the
 * network decides below that: a chunk should take one to five seconds, so that
 * little is lost when a connection breaks, and little is wasted on round trips.
 * One object for the page: what one upload learned about a proxy is true for the next.
 */
export class ChunkSize {
  #size = START;
  #ceiling = Infinity;
  #proven = false;

  /** Has any chunk arrived yet? Before, nothing is known about the speed. */
  get proven() {
    return this.#proven;
  }

  /** The largest body that hasn't been refused yet. */
  get ceiling() {
    return this.#ceiling;
  }

  /** Bytes of the next chunk for a server that takes at most `limit`. */
  within(limit) {
    return Math.min(limit, this.#ceiling, this.#size);
  }

  /** A chunk arrived after `ms`. One much shorter than usual proves nothing. */
  took(bytes, ms) {
    this.#proven = true;
    if (ms > SLOW && bytes * 2 >= this.#size) this.#shrink(bytes);
    else if (ms < QUICK && bytes >= this.#size) this.#size *= 2;
  }

  /** A chunk got stuck. */
  stalled(bytes) {
    this.#shrink(bytes);
  }

  /** Something on the way refuses bodies of this length. False: it can't be smaller. */
  refused(bytes) {
    this.#ceiling = Math.min(this.#ceiling, Math.max(FLOOR, Math.floor(bytes / 2)));
    return bytes > FLOOR;
  }

  #shrink(bytes) {
    this.#size = Math.max(FLOOR, Math.min(this.#size, Math.floor(bytes / 2)));
  }
}
