// A server in memory that keeps the contract, and a network that can be told to fail.

import { errors } from "../../../assets/src/errors.js";
import { after } from "./clock.mjs";

const RETRYABLE = ["too_slow", "over_quota", "internal", "unavailable", "no_space"];

export const refuse = (status, name, extra = {}) => ({
  status,
  headers: extra.headers ?? {},
  json: { error: { code: errors[name], name, message: `it is ${name}`, retryable: RETRYABLE.includes(name) } },
});

export class Server {
  chunk_size = 256 * 1024;
  lanes = 4;
  websocket = true;
  /** When all has arrived, go on by itself. */
  finishes = true;
  /** How many bytes of a chunk are kept, for servers that keep a prefix. */
  keeps = (bytes) => bytes;
  /** Gets every request; may answer in place of the server, or say "lost" or "hang". */
  intercept = () => undefined;
  latency = 20;
  requests = [];
  uploads = new Map();
  #sessions = 0;

  ticket(id = "t1") {
    this.uploads.set(id, {
      id,
      state: "waiting",
      version: 1,
      length: null,
      bytes: null,
      mask: null,
      session: null,
      reason: "",
    });
    return this.uploads.get(id);
  }

  count(method) {
    return this.requests.filter((request) => request.method === method).length;
  }

  change(upload, state, reason = "") {
    Object.assign(upload, { state, reason, version: upload.version + 1 });
  }

  handle({ method, url, headers, body }) {
    const [, id, action] = /\/incoming\/0\.1\/frontend\/uploads\/([^/?]+)(?:\/(\w+))?/.exec(url) ?? [];
    const upload = this.uploads.get(decodeURIComponent(id ?? ""));
    if (!upload) return refuse(404, "unknown_upload");
    if (method === "GET") return this.#status(upload);
    if (method === "DELETE") return this.#cancel(upload, headers);
    if (["cancelled", "expired"].includes(upload.state)) return refuse(410, upload.state);
    if (action === "pause") return this.#pause(upload, headers);
    return method === "POST" ? this.#open(upload, headers, body) : this.#put(upload, headers, body);
  }

  #open(upload, headers, body) {
    const length = Number(headers["Incoming-Length"]);
    const print = headers["Incoming-Fingerprint"];
    if (upload.length !== null && (upload.length !== length || upload.print !== print))
      return refuse(409, "file_changed");
    if (upload.length === null) {
      Object.assign(upload, {
        length,
        print,
        name: headers["Incoming-Name"],
        bytes: new Uint8Array(length),
        mask: new Uint8Array(length),
      });
    }
    upload.session = `s${++this.#sessions}`;
    if (upload.state === "waiting" || upload.state === "paused") this.change(upload, "receiving");
    this.store(upload, 0, body);
    return this.#status(upload, { session: upload.session });
  }

  #put(upload, headers, body) {
    if (upload.session === null) return refuse(503, "unavailable");
    if (headers["Incoming-Session"] !== upload.session) return refuse(409, "replaced");
    if (upload.state !== "receiving") return refuse(409, "already_complete");
    const [, start, end, total] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headers["Content-Range"]).map(Number);
    if (total !== upload.length || end - start + 1 !== body.length) return refuse(400, "bad_request");
    if (body.length > this.chunk_size) return refuse(413, "too_large");
    this.store(upload, start, body.subarray(0, this.keeps(body.length)));
    return this.#status(upload);
  }

  store(upload, start, bytes) {
    upload.bytes.set(bytes, start);
    upload.mask.fill(1, start, start + bytes.length);
    upload.version += 1;
    if (this.missing(upload).length === 0 && upload.state === "receiving") this.#complete(upload);
  }

  /** The disk has lost what came after `position`: it is owed again, and has to be sent in a new session. */
  take_back(upload, position) {
    upload.mask.fill(0, position);
    upload.session = null;
    this.change(upload, "receiving");
  }

  #complete(upload) {
    this.change(upload, "completing");
    if (this.finishes) after(50, () => upload.state === "completing" && this.change(upload, "finished"));
  }

  #pause(upload, headers) {
    if (headers["Incoming-Session"] !== upload.session) return refuse(409, "replaced");
    this.change(upload, "paused");
    return this.#status(upload);
  }

  #cancel(upload, headers) {
    if (["handing_over", "waiting_for_app", "finished"].includes(upload.state)) return refuse(412, "too_late");
    if (upload.state !== "cancelled")
      this.change(upload, "cancelled", decodeURIComponent(headers["Incoming-Reason"] ?? ""));
    return this.#status(upload);
  }

  missing({ mask }) {
    const gaps = [];
    for (let at = mask?.indexOf(0) ?? -1; at >= 0;) {
      const end = mask.indexOf(1, at);
      gaps.push([at, end < 0 ? mask.length : end]);
      at = end < 0 ? -1 : mask.indexOf(0, end);
    }
    return gaps;
  }

  received(upload) {
    const gone = this.missing(upload).reduce((sum, [start, end]) => sum + end - start, 0);
    return (upload.length ?? 0) - gone;
  }

  #status(upload, extra = {}) {
    const { id, state, version, length, reason } = upload;
    const missing = this.missing(upload);
    const phase =
      {
        completing: "processing",
        handing_over: "processing",
        waiting_for_app: "processing",
        finished: "finished",
        cancelled: "cancelled",
      }[state] ?? (["expired", "damaged", "undeliverable"].includes(state) ? "failed" : "uploading");
    const offset = missing[0]?.[0] ?? length ?? 0;
    const fixed = { chunk_size: this.chunk_size, lanes: this.lanes, websocket: this.websocket };
    return {
      status: 200,
      headers: {},
      json: {
        id,
        state,
        phase,
        version,
        length,
        received: this.received(upload),
        offset,
        missing,
        reopen: upload.session === null && state === "receiving",
        reason,
        ...fixed,
        ...extra,
      },
    };
  }
}
