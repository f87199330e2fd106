import { Backoff } from "./backoff.js";
import { clock, sleep } from "./clock.js";
import { BLOCKED, FATAL, as_failure } from "./errors.js";
import { HttpTransport } from "./http.js";
import { other_transport } from "./page.js";
import { WebSocketTransport } from "./websocket.js";

const TRANSPORTS = { http: HttpTransport, websocket: WebSocketTransport };

/**
 * Gets one errand done, whatever the network does: tries, waits, tries again,
 * changes over to the other transport. The errand is to upload or to cancel; a
 * new errand supersedes the old one, whose promise then resolves with nothing.
 */
export class Delivery {
  #job;
  #page;
  #reporter;
  #wanted;
  #transport = null;
  #backoff = new Backoff();
  #gained = 0;
  #refusals = new Map();
  #errand = new AbortController();

  /** `wanted` is "auto" or the name of the only transport to be used. */
  constructor(job, page, wanted, reporter) {
    this.#job = job;
    this.#page = page;
    this.#wanted = wanted;
    this.#reporter = { ...reporter, uploading: () => this.#reached(reporter) };
  }

  /** Name of the transport in use, "" before there is one. */
  get transport() {
    return this.#transport?.name ?? "";
  }

  /** Resolves with how the upload ended; rejects with the Failure that ended it. */
  upload() {
    return this.#persist((transport) => transport.run());
  }

  cancel(reason) {
    return this.#persist((transport) => transport.cancel(reason));
  }

  pause() {
    this.#errand.abort();
    this.#transport?.pause();
    // After a pause the upload is opened anew: the person wants it here, whoever has it now.
    this.#transport = null;
  }

  async #persist(act) {
    this.#errand.abort();
    this.#backoff.reset();
    const { signal } = (this.#errand = new AbortController());
    for (;;) {
      this.#transport ??= this.#first_choice();
      this.#reporter.connecting();
      if (signal.aborted) return null;
      const began = clock.now();
      try {
        const outcome = await act(this.#transport);
        return signal.aborted ? null : outcome;
      } catch (thrown) {
        if (signal.aborted) return null;
        await this.#recover(as_failure(thrown), clock.now() - began, signal);
        if (signal.aborted) return null;
      }
    }
  }

  #reached(reporter) {
    this.#backoff.reached();
    reporter.uploading();
  }

  #first_choice() {
    return this.#make(this.#wanted === "auto" ? this.#page.first_choice : this.#wanted);
  }

  #make(name) {
    return new TRANSPORTS[name](this.#job, this.#page, this.#reporter);
  }

  /** Waits as long as is good after an attempt that took `spent` milliseconds. */
  async #recover(failure, spent, signal) {
    if (failure.kind === FATAL) throw failure;
    if (failure.kind === BLOCKED && this.#change_over(failure)) return;
    this.#reporter.waiting(failure);
    if (this.#job.tally.gained > this.#gained) this.#backoff.reset();
    this.#gained = this.#job.tally.gained;
    const ms = this.#backoff.next(failure, spent);
    // The network being back is no reason to bother a server that named a time.
    await sleep(ms, { signal, online: failure.network });
  }

  /** True when there is another transport to go on with at once. */
  #change_over(failure) {
    const { name } = this.#transport;
    this.#refusals.set(name, failure);
    const next = other_transport(name);
    if (this.#wanted !== "auto" || this.#refusals.has(next)) return this.#no_way_left();
    if (failure.remember) this.#page.avoid(name);
    this.#transport.abandon();
    this.#transport = this.#make(next);
    return true;
  }

  /** A clear refusal is the end, unless bytes got through before: then it is the network, which changes. */
  #no_way_left() {
    const clear = [...this.#refusals.values()].find((failure) => failure.code > 0);
    if (clear && this.#job.tally.gained === 0) throw clear;
    this.#page.avoid_none();
    this.#refusals.clear();
    this.#transport.abandon();
    this.#transport = this.#first_choice();
    return false;
  }
}
