import { clock, sleep } from "./clock.js";
import { next_opening } from "./openings.js";
import { ask } from "./request.js";
import { header_text } from "./text.js";

const BYTES = "application/octet-stream";
const TIMEOUT = 20_000;
/** Milliseconds until a question is asked once more, over another connection. */
const AGAIN = 4000;

/** The HTTP resource of one upload: each method is one request and resolves with the status. */
export class Resource {
  #url;

  constructor(base, id) {
    this.#url = `${base}uploads/${encodeURIComponent(id)}`;
  }

  /** Opens the upload: from now on this client owns it. */
  open(file, fingerprint, signal) {
    return ask("POST", this.#url, { headers: opening(file, fingerprint), timeout: TIMEOUT, signal });
  }

  /** Opens, sends all and completes in one request. */
  open_whole(file, fingerprint, { signal, on_progress }) {
    const headers = { ...opening(file, fingerprint), "Content-Type": BYTES };
    return ask("POST", this.#url, { headers, body: file.slice(0, file.size), signal, on_progress });
  }

  /** Sends the bytes of [start, end). */
  put(session, file, [start, end], { signal, on_progress }) {
    const headers = {
      "Incoming-Session": session,
      "Content-Range": `bytes ${start}-${end - 1}/${file.size}`,
      "Content-Type": BYTES,
    };
    return ask("PUT", this.#url, { headers, body: file.slice(start, end), signal, on_progress });
  }

  status(signal, timeout = TIMEOUT) {
    return ask("GET", this.#url, { timeout, signal });
  }

  /**
   * The status, from a server that was out of reach. The connection that the question goes into may be dead although
   * there is a way again, so beside the one that waits patiently others are sent, one after the other.
   */
  status_after_loss(signal) {
    const stop = new AbortController();
    const abort = () => stop.abort();
    signal.addEventListener("abort", abort);
    return Promise.race([this.status(stop.signal), this.#ask_again(stop.signal)]).finally(() => {
      signal.removeEventListener("abort", abort);
      abort();
    });
  }

  async #ask_again(signal) {
    await sleep(AGAIN, { signal });
    for (;;) {
      const began = clock.now();
      try {
        return await this.status(signal, AGAIN);
      } catch (failure) {
        if (!failure.network || signal.aborted || clock.now() - began < AGAIN) throw failure;
      }
    }
  }

  /** Bytes that the server has, or 0 when something answered that doesn't know; rejects when nobody answered. */
  witness(timeout) {
    return this.status(null, timeout).then(
      ({ received }) => received ?? 0,
      (failure) => (failure.network ? Promise.reject(failure) : 0),
    );
  }

  /** The status, as soon as it isn't `version` any more or `wait` seconds have passed. */
  next_status(version, wait, signal) {
    const url = `${this.#url}?wait=${wait}&since=${version}`;
    return ask("GET", url, { timeout: wait * 1000 + TIMEOUT, signal });
  }

  pause(session) {
    return ask("POST", `${this.#url}/pause`, { headers: { "Incoming-Session": session }, timeout: TIMEOUT });
  }

  cancel(reason, signal) {
    const headers = reason ? { "Incoming-Reason": header_text(reason) } : {};
    return ask("DELETE", this.#url, { headers, timeout: TIMEOUT, signal });
  }
}

function opening(file, fingerprint) {
  return {
    "Incoming-Length": String(file.size),
    "Incoming-Name": header_text(file.name ?? ""),
    "Incoming-Fingerprint": fingerprint,
    "Incoming-Opening": next_opening(),
  };
}
