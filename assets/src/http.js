import { lost } from "./errors.js";
import { Diagnosis } from "./diagnosis.js";
import { Ending } from "./ending.js";
import { FINISHED, cancellable, cancelled, outcome_of } from "./outcome.js";
import { Resource } from "./resource.js";
import { Sender } from "./sender.js";
import { StallWatch } from "./stall.js";

/** A file up to this long is sent in the request that opens the upload. */
const SMALL = 1024 * 1024;

/**
 * The upload over plain HTTP requests. `run()` and `cancel()` are one attempt
 * each; what they learn stays for the next one, above all the session token:
 * coming back with it, instead of opening again, we never take the upload away
 * from another page.
 */
export class HttpTransport {
  name = "http";
  #job;
  #page;
  #reporter;
  #resource;
  #diagnosis;
  #ending;
  #watch = new StallWatch((ms) => this.#resource.witness(ms));
  #stop = new AbortController();
  #session = null;
  #whole_tried = false;

  constructor(job, page, reporter) {
    this.#job = job;
    this.#page = page;
    this.#reporter = reporter;
    this.#resource = new Resource(job.base, job.id);
    this.#ending = new Ending(page, this.#resource);
    this.#diagnosis = new Diagnosis(page.chunk_size);
  }

  /** Sends what is missing and waits for the end; resolves with the outcome. */
  run() {
    return this.#one_attempt((signal) => this.#upload(signal));
  }

  /** Resolves with the outcome: cancelled, or finished when it was too late. */
  cancel(reason) {
    return this.#one_attempt(async (signal) => {
      const status = await this.#resource.cancel(reason, signal);
      return status.phase === "finished" ? FINISHED : cancelled(reason);
    });
  }

  /** Stops at once; the server is told, but we don't wait for its answer. */
  pause() {
    this.abandon();
    if (this.#session) this.#resource.pause(this.#session).catch(() => {});
  }

  abandon() {
    this.#stop.abort();
    this.#watch.stop();
  }

  async #one_attempt(act) {
    this.abandon();
    const { signal } = (this.#stop = new AbortController());
    try {
      return await act(signal);
    } catch (failure) {
      throw signal.aborted || !failure.kind ? failure : this.#diagnosis.judge(failure);
    }
  }

  async #upload(signal) {
    let status = await this.#enter(signal);
    for (;;) {
      const outcome = outcome_of(status);
      if (outcome) return outcome;
      if (status.reopen) status = await this.#enter_anew(signal);
      status = await (status.missing.length > 0 ? this.#send(status, signal) : this.#news(status, signal));
    }
  }

  /** Opens the upload, or, when that has been done, asks how far it is. */
  async #enter(signal) {
    const status = await (this.#session ? this.#resource.status_after_loss(signal) : this.#open(signal));
    this.#session = status.session ?? this.#session;
    this.#diagnosis.heard(status);
    this.#count(status);
    this.#diagnosis.came_back(status.received);
    return status;
  }

  /** The server's disk has lost bytes: what we know of the upload is wrong, and our session has ended. */
  #enter_anew(signal) {
    this.#session = null;
    return this.#enter(signal);
  }

  #count({ received, in_one }) {
    const { tally } = this.#job;
    tally.begin(received);
    if (!in_one) return;
    tally.chunk_sent();
    tally.chunk_acked(received);
  }

  async #open(signal) {
    if (this.#diagnosis.opening_is_suspicious) await this.#look(signal);
    const fingerprint = await this.#job.identify();
    const release = await this.#page.lanes.take(this.#job, signal);
    if (!release) throw lost("stopped");
    try {
      const status = await this.#open_somehow(fingerprint, signal);
      this.#diagnosis.opened();
      return status;
    } catch (failure) {
      if (failure.network) this.#diagnosis.open_lost();
      throw failure;
    } finally {
      release();
    }
  }

  /** Opening failed before. Does anything get through at all? */
  async #look(signal) {
    this.#diagnosis.heard(await this.#resource.status(signal));
    throw this.#diagnosis.opening_blocked();
  }

  #open_somehow(fingerprint, signal) {
    const { file } = this.#job;
    const whole = !this.#whole_tried && file.size <= Math.min(SMALL, this.#page.chunk_size.ceiling);
    return whole ? this.#open_whole(fingerprint, signal) : this.#resource.open(file, fingerprint, signal);
  }

  /** Tried once only: if anything is wrong with it, opening and sending are two things again. */
  async #open_whole(fingerprint, signal) {
    const { file, tally } = this.#job;
    this.#whole_tried = true;
    this.#watch.start(() => this.abandon());
    try {
      const on_progress = (bytes) => this.#moved(bytes);
      const status = await this.#resource.open_whole(file, fingerprint, { signal, on_progress });
      return { ...status, in_one: true };
    } catch (failure) {
      if (failure.status !== 413) throw failure;
      this.#page.chunk_size.refused(file.size);
      return await this.#resource.open(file, fingerprint, signal);
    } finally {
      this.#watch.stop();
      tally.set_ahead(0);
    }
  }

  #moved(bytes) {
    this.#watch.moved();
    this.#job.tally.set_ahead(bytes);
  }

  async #send(status, signal) {
    this.#reporter.uploading();
    const { tally } = this.#job;
    const sender = new Sender(this.#job, this.#page, this.#resource, this.#session, this.#watch, signal);
    try {
      const latest = await sender.send(status);
      return latest.missing.length > 0 ? await this.#resource.status(signal) : latest;
    } catch (failure) {
      if (failure.network) this.#diagnosis.put_lost(tally.acked, this.#page.chunk_size.within(status.chunk_size));
      throw failure;
    }
  }

  #news(status, signal) {
    this.#reporter.processing(cancellable(status));
    return this.#ending.next(status.version, signal);
  }
}
