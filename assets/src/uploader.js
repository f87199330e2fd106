import { Delivery } from "./delivery.js";
import { as_failure, fatal } from "./errors.js";
import { fingerprint } from "./fingerprint.js";
import { forget, remember } from "./memory.js";
import { Rate } from "./rate.js";
import { STATES, waiting_message } from "./states.js";
import { Tally } from "./tally.js";

const TRANSPORTS = ["auto", "http", "websocket"];
/** The ticket is still good; only this page couldn't go on. */
const RESUMABLE = ["replaced", "file_unreadable", "unauthorized", "forbidden", "forbidden_origin"];
/** Characters. A reason travels in a header, where each may become nine bytes and servers stop at eight thousand. */
const LONGEST_REASON = 500;
/** Nothing is left to cancel. */
const GONE = ["cancelled", "expired", "unknown_upload"];

/** Uploads one file. Everything that can be seen is derived from one state, four counts and the outcome. */
export class Upload {
  onprogress = null;
  onfinished = null;
  oncancelled = null;
  onerror = null;

  #job;
  #tally;
  #rate = new Rate();
  #delivery;
  #state = "idle";
  #note = "";
  #cancel_msg = "";
  #failure = null;

  constructor(upload_id, file, options, { page, base }) {
    check_arguments(upload_id, file, options);
    this.#tally = new Tally(file.size, () => this.#counted());
    this.#job = { id: upload_id, file, base, tally: this.#tally, identify: () => identify(file) };
    this.#delivery = new Delivery(this.#job, page, options.transport ?? "auto", this.#reporter);
  }

  get filename() {
    return this.#job.file.name ?? "";
  }

  get bytes_total() {
    return this.#tally.total;
  }

  get bytes_tx() {
    return this.#tally.tx;
  }

  get bytes_acked() {
    return this.#tally.acked;
  }

  get bytes_ahead() {
    return this.bytes_tx - this.bytes_acked;
  }

  get frac_complete() {
    return this.#tally.fraction;
  }

  get chunks_tx_now() {
    return this.#tally.chunks_tx;
  }

  get chunks_acked_now() {
    return this.#tally.chunks_acked;
  }

  get chunks_ahead() {
    return this.chunks_tx_now - this.chunks_acked_now;
  }

  get bytes_per_second() {
    return this.#state === "uploading" ? this.#rate.bytes_per_second : null;
  }

  get seconds_left() {
    const speed = this.bytes_per_second;
    return speed ? (this.bytes_total - this.bytes_acked) / speed : null;
  }

  get state_msg() {
    const processing = this.#row.active && this.#tally.complete;
    return this.#note || (processing ? STATES.processing : this.#row).msg;
  }

  get cancel_msg() {
    return this.#cancel_msg;
  }

  get error_code() {
    return this.#failure?.code ?? 0;
  }

  get error_msg() {
    return this.#failure?.message ?? "";
  }

  get phase() {
    return this.#row.phase ?? (this.#tally.complete ? "processing" : "uploading");
  }

  get transport() {
    return this.#delivery.transport;
  }

  get connected() {
    return this.#row.connected === true;
  }

  get finished() {
    return this.#state === "finished";
  }

  get paused() {
    return this.#row.paused === true;
  }

  get can_pause() {
    return this.#row.can_pause === true && !this.#tally.complete;
  }

  get cancelling() {
    return this.#row.cancelling === true;
  }

  get cancelled() {
    return this.#state === "cancelled";
  }

  get can_cancel() {
    return this.#row.can_cancel === true;
  }

  /** Begins, or goes on after a pause. */
  start() {
    if (this.#state !== "idle" && !this.paused) return;
    this.#remember();
    this.#become("connecting");
    this.#follow(() => this.#delivery.upload());
  }

  pause() {
    if (!this.can_pause) return;
    this.#delivery.pause();
    this.#become("paused");
  }

  cancel(reason = "") {
    if (!this.can_cancel) return;
    this.#cancel_msg = String(reason).slice(0, LONGEST_REASON);
    this.#become("cancelling");
    this.#follow(() => this.#delivery.cancel(this.#cancel_msg));
  }

  get #row() {
    return STATES[this.#state];
  }

  /** What the delivery may tell us; nothing once the person has decided otherwise. */
  #reporter = {
    // While the server works on the file, a new connection is no news.
    connecting: () => this.#row.phase || this.#report("connecting"),
    uploading: () => this.#report("uploading"),
    processing: (can_cancel) => this.#report(can_cancel ? "processing" : "handing_over"),
    waiting: (failure) => this.#report("waiting", waiting_message(failure)),
  };

  #report(state, note = "") {
    if (!this.#row.active || (state === this.#state && note === this.#note)) return;
    this.#become(state, note);
  }

  #become(state, note = "") {
    this.#state = state;
    this.#note = note;
    this.#rate.reset();
    if (!this.connected) this.#tally.interrupt();
    if (state === "uploading") this.#rate.add(this.#tally.acked);
    this.#call("onprogress");
    const { callback } = STATES[state];
    if (callback) this.#call(callback);
  }

  #counted() {
    if (this.#state === "uploading") this.#rate.add(this.#tally.acked);
    this.#call("onprogress");
  }

  /** The page's mistakes are reported, but they don't stop the upload. */
  #call(name) {
    try {
      this[name]?.(this);
    } catch (error) {
      (globalThis.reportError ?? console.error)(error);
    }
  }

  async #follow(errand) {
    try {
      const outcome = await errand();
      if (outcome) this.#conclude(outcome);
    } catch (thrown) {
      this.#fail(as_failure(thrown));
    }
  }

  #conclude({ state, reason = "" }) {
    if (state === "cancelled") this.#cancel_msg = reason || this.#cancel_msg;
    this.#forget();
    this.#become(state);
  }

  #fail(failure) {
    if (failure.error === "cancelled" || (this.cancelling && GONE.includes(failure.error))) {
      return this.#conclude({ state: "cancelled", reason: this.#cancel_msg || failure.message });
    }
    if (this.cancelling && failure.error === "too_late") return this.#too_late();
    if (!RESUMABLE.includes(failure.error)) this.#forget();
    this.#failure = failure;
    this.#become("failed", failure.message);
  }

  /** The hand-over has begun, so we go on waiting for its end. */
  #too_late() {
    this.#cancel_msg = "";
    this.#become("handing_over", "too late to cancel, processing");
    this.#follow(() => this.#delivery.upload());
  }

  #remember() {
    const { id, identify } = this.#job;
    identify().then(
      (print) => this.#row.active && remember(print, id),
      () => {},
    );
  }

  #forget() {
    const { id, identify } = this.#job;
    identify().then(
      (print) => forget(print, id),
      () => {},
    );
  }
}

function identify(file) {
  return fingerprint(file).catch(() => {
    throw fatal("file_unreadable", "the file can't be read");
  });
}

function check_arguments(upload_id, file, options) {
  if (typeof upload_id !== "string" || upload_id === "") throw new TypeError("upload_id must be a ticket id");
  if (typeof file?.slice !== "function" || typeof file.size !== "number") throw new TypeError("file must be a File");
  const unknown = Object.keys(options).find((name) => name !== "transport");
  if (unknown) throw new TypeError(`unknown option: ${unknown}`);
  const { transport = "auto" } = options;
  if (!TRANSPORTS.includes(transport)) throw new TypeError(`transport must be one of ${TRANSPORTS.join(", ")}`);
}
