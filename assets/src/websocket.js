import { connect } from "./connect.js";
import { Conversation } from "./conversation.js";
import { BLOCKED } from "./errors.js";
import { StallWatch } from "./stall.js";

/** Connections that may fail to open in a row: before one has ever opened, and after. */
const TRIES = 2;
const TRIES_LATER = 5;

/** The upload over a WebSocket: the Incoming!! 0.1 protocol, and its additions where the server has them. */
export class WebSocketTransport {
  name = "websocket";
  #job;
  #page;
  #reporter;
  #url;
  #watch = new StallWatch();
  #stop = new AbortController();
  #conversation = null;
  #unopened = 0;
  #opened = false;

  constructor(job, page, reporter) {
    this.#job = job;
    this.#page = page;
    this.#reporter = reporter;
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
    const socket = await connect(this.#url, signal).catch((failure) => this.#not_opened(failure, signal));
    this.#unopened = 0;
    this.#opened = true;
    const conversation = new Conversation(socket, this.#job, this.#page.chunk_size, this.#reporter, this.#watch);
    this.#conversation = conversation;
    try {
      return await act(conversation);
    } finally {
      conversation.close();
      if (this.#conversation === conversation) this.#conversation = null;
    }
  }

  #not_opened(failure, signal) {
    if (signal.aborted) throw failure;
    this.#unopened += 1;
    const too_often = this.#unopened >= (this.#opened ? TRIES_LATER : TRIES);
    throw too_often ? failure.as(BLOCKED) : failure;
  }
}
