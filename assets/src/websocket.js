import { clock } from "./clock.js";
import { connect } from "./connect.js";
import { Conversation } from "./conversation.js";
import { BLOCKED } from "./errors.js";
import { Resource } from "./resource.js";
import { StallWatch } from "./stall.js";

/** Connections that may fail to open in a row before one has ever opened. */
const TRIES = 2;
/** Milliseconds for which none may open later on: a server that restarts, or a line that is down, is no blocked way. */
const CLOSED = 20_000;
/**
 * Milliseconds that a connection may take to open. Where one has opened before, one that doesn't is soon given up:
 * perhaps there is a way again, and only a new one finds it at once. Now and then one is given time.
 */
const OPENING = 10_000;
const OPENING_AGAIN = 4000;
const PATIENT = 4;

/** The upload over a WebSocket: the Incoming!! 0.1 protocol, and its additions where the server has them. */
export class WebSocketTransport {
  name = "websocket";
  #job;
  #page;
  #reporter;
  #url;
  #watch;
  #stop = new AbortController();
  #conversation = null;
  #unopened = 0;
  #opened_at = null;

  constructor(job, page, reporter) {
    this.#job = job;
    this.#page = page;
    this.#reporter = reporter;
    const resource = new Resource(job.base, job.id);
    this.#watch = new StallWatch((ms) => resource.witness(ms));
    this.#url = `${job.base.replace(/^http/, "ws")}upload_ws`;
  }

  /** Sends what is missing and waits for the end; resolves with the outcome. */
  async run() {
    const signal = this.#begin();
    const fingerprint = await this.#job.identify();
    for (;;) {
      const outcome = await this.#converse(signal, (conversation) => conversation.upload(fingerprint));
      // Nothing was heard for long. The connection may be dead; only a new one can tell.
      if (outcome) return outcome;
    }
  }

  /** Resolves with the outcome. Asks over the connection that there is, if there is one. */
  cancel(reason) {
    if (this.#conversation) return this.#conversation.cancel(reason);
    return this.#converse(this.#begin(), (conversation) => conversation.cancel(reason));
  }

  pause() {
    this.#conversation?.pause();
    this.abandon();
  }

  abandon() {
    this.#stop.abort();
    this.#conversation?.close();
    this.#conversation = null;
  }

  #begin() {
    this.abandon();
    this.#stop = new AbortController();
    return this.#stop.signal;
  }

  async #converse(signal, act) {
    const socket = await connect(this.#url, this.#time_to_open, signal).catch((failure) =>
      this.#not_opened(failure, signal),
    );
    this.#unopened = 0;
    this.#opened_at = clock.now();
    const conversation = new Conversation(socket, this.#job, this.#page.chunk_size, this.#reporter, this.#watch);
    this.#conversation = conversation;
    try {
      return await act(conversation);
    } finally {
      conversation.close();
      this.#opened_at = clock.now();
      if (this.#conversation === conversation) this.#conversation = null;
    }
  }

  get #time_to_open() {
    const patiently = this.#opened_at === null || this.#unopened % PATIENT === PATIENT - 1;
    return patiently ? OPENING : OPENING_AGAIN;
  }

  #not_opened(failure, signal) {
    if (signal.aborted) throw failure;
    this.#unopened += 1;
    throw this.#is_blocked ? failure.as(BLOCKED) : failure;
  }

  get #is_blocked() {
    if (this.#opened_at === null) return this.#unopened >= TRIES;
    return this.#unopened >= TRIES && clock.now() - this.#opened_at >= CLOSED;
  }
}
