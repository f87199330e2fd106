import { clock } from "./clock.js";

const PATIENCE = 10_000;
const LONGEST = 80_000;

/**
 * Notices that nothing moves although bytes are under way. A half-open
 * connection reports no error for minutes. Patience doubles with each stall and
 * follows what the line was seen to need, for lines that really are that slow.
 */
export class StallWatch {
  #patience = PATIENCE;
  #moved_at = 0;
  #call_off = null;
  #on_stall;

  /** Something moved, so the time starts anew. */
  moved() {
    if (!this.#call_off) return;
    this.#call_off();
    this.#arm();
  }

  /** The server confirmed bytes. */
  confirmed() {
    const needed = clock.now() - this.#moved_at;
    this.#patience = Math.min(LONGEST, Math.max(PATIENCE, 2 * needed));
    this.moved();
  }

  start(on_stall) {
    this.stop();
    this.#on_stall = on_stall;
    this.#arm();
  }

  stop() {
    this.#call_off?.();
    this.#call_off = null;
  }

  #arm() {
    this.#moved_at = clock.now();
    this.#call_off = clock.after(this.#patience, () => this.#fire());
  }

  #fire() {
    this.#call_off = null;
    this.#patience = Math.min(LONGEST, this.#patience * 2);
    this.#on_stall();
  }
}
