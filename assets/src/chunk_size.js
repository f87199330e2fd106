const KIB = 1024;
const START = 512 * KIB;
const FLOOR = 64 * KIB;
/** Milliseconds that a chunk should take: little is lost with it, and a round trip is little beside it. */
const GOAL = 2000;
/** How many times larger than the last chunk the next one may be. One quick chunk may have met a buffer, not a line. */
const LEAP = 16;

/**
 * How large a chunk the page sends. The server names the most that it takes; the
 * line decides below that: a chunk should take about two seconds, so that
 * little is lost when a connection breaks, and little is wasted on round trips.
 * One object for the page: what one upload learned about a line is true for the next.
 */
export class ChunkSize {
  #size = START;
  #wanted = START;
  #ceiling = Infinity;
  #arrived = 0;
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

  /** Lanes, of at most `most`, that the line can bear: where even the smallest chunks take long, fewer go at a time. */
  lanes(most) {
    return Math.max(1, Math.min(most, Math.floor((2 * most * this.#wanted) / FLOOR)));
  }

  /** A chunk arrived after `ms`. One much shorter than usual can only prove that the line is faster than we thought. */
  took(bytes, ms) {
    this.#proven = true;
    this.#arrived = Math.max(this.#arrived, bytes);
    const wanted = Math.min(LEAP, GOAL / Math.max(1, ms)) * bytes;
    if (wanted > this.#size || bytes * 2 >= this.#size) this.#want(wanted);
  }

  /** A chunk got stuck. */
  stalled(bytes) {
    this.#want(Math.min(this.#size, bytes / 2));
  }

  /**
   * Something on the way refuses bodies of this length. False: it can't be smaller. The limit is somewhere between
   * what has arrived and this, so half as much is tried, or the middle of the two where they are far apart.
   */
  refused(bytes) {
    const middle = this.#arrived > 0 ? Math.sqrt(this.#arrived * bytes) : bytes;
    this.#ceiling = Math.min(this.#ceiling, Math.max(FLOOR, Math.floor(Math.min(bytes / 2, middle))));
    return bytes > FLOOR;
  }

  #want(bytes) {
    this.#wanted = bytes;
    this.#size = Math.max(FLOOR, Math.floor(bytes));
  }
}

/**
 * Bytes of the next chunk of several lanes, when `left` are left for them: near
 * the end smaller ones, so that all lanes have something to do until it is reached.
 */
export function share(size, left, lanes) {
  const least = Math.min(size, Math.max(FLOOR, Math.ceil(size / 8)));
  return Math.max(least, Math.min(size, Math.ceil(left / lanes)));
}
