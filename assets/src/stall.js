import { clock } from "./clock.js";

/** Milliseconds of stillness after which we ask whether the server is there, and how long it may take to say so. */
const ASK = 3500;
const ANSWER = 5000;
/** Milliseconds of stillness that we bear while the server answers beside it. */
const BEARABLE = 30_000;
/** So many times patience may grow. */
const MOST = 8;

/**
 * Notices that nothing moves although bytes are under way. A half-open
 * connection reports no error for minutes, and a slow line may be still for as
 * long: the browser hands bytes over in lumps, and the server answers when it
 * has stored them. So after a while of stillness a witness is asked, over another
 * connection. If it is silent, too, the line is dead; if it answers, we wait on.
 * Patience doubles with each stall and follows what the line was seen to need,
 * for lines that really are that slow.
 */
export class StallWatch {
  #witness;
  #patience = 1;
  #moved_at = 0;
  #seen = null;
  #call_off = null;
  #on_stall;

  /** `witness(ms)` resolves with the bytes that the server has, and rejects when nobody answers within that time. */
  constructor(witness) {
    this.#witness = witness;
  }

  /** Something moved, so the time starts anew. */
  moved() {
    if (!this.#call_off) return;
    this.#moved_at = clock.now();
    this.#wait();
  }

  /** The server confirmed bytes. */
  confirmed() {
    const needed = clock.now() - this.#moved_at;
    this.#patience = Math.min(MOST, Math.max(1, (2 * needed) / (ASK + ANSWER)));
    this.moved();
  }

  start(on_stall) {
    this.stop();
    this.#on_stall = on_stall;
    this.#moved_at = clock.now();
    this.#wait();
  }

  stop() {
    this.#call_off?.();
    this.#call_off = null;
  }

  #wait() {
    this.#after(ASK, () => this.#ask());
  }

  #after(ms, f) {
    this.#call_off?.();
    return (this.#call_off = clock.after(ms * this.#patience, f));
  }

  async #ask() {
    const asked = this.#after(ANSWER, () => this.#fire());
    // Who answers at once that there is no way has seen nothing: the time runs on.
    const received = await this.#witness(ANSWER * this.#patience).catch(() => null);
    if (received === null || this.#call_off !== asked) return;
    const grown = this.#seen !== null && received > this.#seen;
    this.#seen = received;
    if (grown) return this.moved();
    if (clock.now() - this.#moved_at < BEARABLE * this.#patience) return this.#wait();
    this.#fire();
  }

  #fire() {
    this.stop();
    this.#patience = Math.min(MOST, this.#patience * 2);
    this.#on_stall();
  }
}
