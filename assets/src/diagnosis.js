import { BLOCKED, FATAL, Failure, PASSING } from "./errors.js";

/** So many failures in a row, and it isn't chance. */
const SUSPICIOUS = 2;
const UNREACHABLE = 3;
/** Seconds until the next try while we are finding out what gets through. */
const SOON = 0.5;

/**
 * Works out from what failed and what didn't why HTTP requests don't arrive. A
 * browser hides the reason: a proxy that refuses a body answers without the CORS
 * headers that a page of another origin needs, which looks like a broken
 * connection, only that small requests get through at the same time.
 */
export class Diagnosis {
  #chunk_size;
  #websocket = null;
  #heard = false;
  #unanswered = 0;
  #opens_lost = 0;
  #loss = null;
  #puts_lost = 0;
  #probing = false;

  constructor(chunk_size) {
    this.#chunk_size = chunk_size;
  }

  /** The server answered. */
  heard({ websocket }) {
    this.#heard = true;
    this.#websocket = websocket ?? this.#websocket;
  }

  opened() {
    this.#opens_lost = 0;
  }

  open_lost() {
    this.#opens_lost += 1;
  }

  get opening_is_suspicious() {
    return this.#opens_lost >= SUSPICIOUS;
  }

  /** A chunk of `size` bytes was lost when `acked` bytes were safe. */
  put_lost(acked, size) {
    this.#loss = { acked, size };
  }

  /** The server can be reached again, and has `acked` bytes; throws if chunks can't reach it. */
  came_back(acked) {
    const loss = this.#loss;
    if (!loss) return;
    this.#loss = null;
    this.#probing = acked <= loss.acked;
    this.#puts_lost = this.#probing ? this.#puts_lost + 1 : 0;
    if (this.#puts_lost >= SUSPICIOUS) this.#send_less(loss.size);
  }

  #send_less(size) {
    this.#puts_lost = 0;
    if (this.#chunk_size.refused(size)) return;
    this.#probing = false;
    throw this.judge(new Failure(BLOCKED, "", "nothing gets through"));
  }

  /** Small requests get through and this one never does. */
  opening_blocked() {
    this.#opens_lost = 0;
    return new Failure(BLOCKED, "", "the upload can't be opened");
  }

  /** The failure in the light of what we know. */
  judge(failure) {
    if (failure.status) this.#heard = true;
    if (failure.kind === BLOCKED) return this.#no_way(failure);
    if (!failure.network) return failure;
    if (this.#unreachable()) return failure.as(BLOCKED, { remember: false });
    return this.#probing && this.#loss ? failure.as(PASSING, { retry_after: SOON }) : failure;
  }

  /** Where there is no other transport, a clear refusal is the end and a silent one has to pass. */
  #no_way(failure) {
    if (this.#websocket !== false) return failure;
    return failure.as(failure.code ? FATAL : PASSING);
  }

  /** Perhaps an older server, which speaks WebSocket only; worth a try, no more. */
  #unreachable() {
    if (this.#heard || globalThis.navigator?.onLine === false) return false;
    this.#unanswered = (this.#unanswered + 1) % UNREACHABLE;
    return this.#unanswered === 0;
  }
}
