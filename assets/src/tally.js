/**
 * What has been counted about one upload: the bytes that are safe, the bytes on
 * their way, the chunks of this connection. Everything else is derived from it.
 */
export class Tally {
  acked = 0;
  chunks_tx = 0;
  chunks_acked = 0;
  /** Bytes that became safe while we watched. */
  gained = 0;
  #ahead = 0;
  #known = false;
  #changed;

  constructor(total, changed = () => {}) {
    this.total = total;
    this.#changed = changed;
  }

  get tx() {
    return Math.min(this.total, this.acked + this.#ahead);
  }

  /** Is all of it safe? An empty file is, once the server knows it. */
  get complete() {
    return this.#known && this.acked >= this.total;
  }

  get fraction() {
    if (this.total === 0) return this.complete ? 1 : 0;
    return this.acked / this.total;
  }

  /** A connection begins; the server has `received` bytes. */
  begin(received) {
    if (this.#known && received > this.acked) this.gained += received - this.acked;
    this.#known = true;
    Object.assign(this, { acked: received, chunks_tx: 0, chunks_acked: 0 });
    this.#ahead = 0;
    this.#changed();
  }

  /** The connection is gone, and with it what was on its way: whether that has arrived will be seen. */
  interrupt() {
    this.chunks_tx = this.chunks_acked;
    this.#ahead = 0;
  }

  chunk_sent() {
    this.chunks_tx += 1;
    this.#changed();
  }

  /** A chunk has to be sent again, so it doesn't count as sent. */
  chunk_returned() {
    this.chunks_tx -= 1;
    this.#changed();
  }

  chunk_acked(received) {
    this.chunks_acked += 1;
    this.received(received);
  }

  /** Answers of parallel lanes overtake each other, so the highest one counts. */
  received(received) {
    if (received > this.acked) this.gained += received - this.acked;
    this.acked = Math.max(this.acked, received);
    this.#changed();
  }

  /** `bytes` have left the browser and are not known to be safe yet. */
  set_ahead(bytes) {
    if (bytes === this.#ahead) return;
    this.#ahead = bytes;
    this.#changed();
  }
}
