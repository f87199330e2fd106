// The parts of a browser that the library uses.

import { after } from "./clock.mjs";

/** The server that requests of this page reach; set for each test. */
export const network = { server: null, sockets: [], accept_socket: () => {} };

class FakeXHR {
  upload = {};
  status = 0;
  responseText = "";
  #headers = {};
  #answer_headers = {};
  #done = false;
  #call_off = [];

  open(method, url) {
    Object.assign(this, { method, url });
  }

  setRequestHeader(name, value) {
    this.#headers[name] = value;
  }

  getResponseHeader(name) {
    return this.#answer_headers[name] ?? null;
  }

  abort() {
    this.#end("onabort");
  }

  async send(blob) {
    const body = new Uint8Array((await blob?.arrayBuffer()) ?? 0);
    if (this.#done) return;
    const { server } = network;
    const request = { method: this.method, url: this.url, headers: this.#headers, body, xhr: this };
    server.requests.push(request);
    server.active = (server.active ?? 0) + 1;
    server.most_active = Math.max(server.most_active ?? 0, server.active);
    if (this.timeout) this.#later(this.timeout, () => this.#end("ontimeout"));
    const verdict = server.intercept(request);
    if (verdict === "hang") return;
    this.#later(server.latency / 2, () => this.progress(body.length));
    this.#later(server.latency, () => {
      if (verdict === "lost") return this.#end("onerror");
      this.answer(verdict ?? server.handle(request));
    });
  }

  progress(loaded) {
    this.upload.onprogress?.({ loaded });
  }

  #later(ms, f) {
    this.#call_off.push(after(ms, f));
  }

  answer({ status, json, text, headers = {} }) {
    this.status = status;
    this.responseText = text ?? JSON.stringify(json);
    this.#answer_headers = headers;
    this.#end("onload");
  }

  #end(event) {
    if (this.#done) return;
    this.#done = true;
    if (network.server.active) network.server.active -= 1;
    this.#call_off.forEach((f) => f());
    this[event]?.();
  }
}

class FakeSocket {
  static OPEN = 1;
  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  binary = [];

  constructor(url) {
    this.url = url;
    network.sockets.push(this);
    after(10, () => network.accept_socket(this));
  }

  accept() {
    if (this.readyState !== 0) return;
    this.readyState = 1;
    this.onopen?.();
  }

  send(data) {
    if (typeof data === "string") this.sent.push(JSON.parse(data));
    else this.binary.push(new Uint8Array(data));
    this.on_sent?.(typeof data === "string" ? JSON.parse(data) : data);
  }

  /** The server says something. */
  say(type, data) {
    if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify({ MsgType: type, MsgData: data }) });
  }

  drop(code = 1006, reason = "") {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  close() {
    this.readyState = 3;
  }

  heard(type) {
    return this.sent.filter((message) => message.MsgType === type);
  }
}

class FakeStorage {
  #items = new Map();
  get length() {
    return this.#items.size;
  }
  key(i) {
    return [...this.#items.keys()][i] ?? null;
  }
  getItem(key) {
    return this.#items.get(key) ?? null;
  }
  setItem(key, value) {
    this.#items.set(key, String(value));
  }
  removeItem(key) {
    this.#items.delete(key);
  }
}

let events;

export function install(server) {
  events = new EventTarget();
  Object.assign(network, { server, sockets: [], accept_socket: () => {} });
  Object.assign(globalThis, {
    XMLHttpRequest: FakeXHR,
    WebSocket: FakeSocket,
    localStorage: new FakeStorage(),
    addEventListener: events.addEventListener.bind(events),
    removeEventListener: events.removeEventListener.bind(events),
  });
}

export function come_online() {
  events.dispatchEvent(new Event("online"));
}

/** Lets sockets reach `server` as one that speaks 0.1, with or without the additions. */
export function serve_sockets(server, { additions = true, chunk_kb = 64, send_ahead = 4 } = {}) {
  network.accept_socket = (socket) => {
    socket.on_sent = (message) => after(10, () => answer(socket, message));
    socket.accept();
  };
  function answer(socket, message) {
    if (!message.MsgType) return store(socket, new Uint8Array(message));
    if (message.MsgType === "MsgUploadReq") return request(socket, message.MsgData);
    if (message.MsgType === "MsgCancel") {
      server.change(socket.upload, "cancelled", message.MsgData.Reason);
      socket.say("MsgCancelAck", { Ack: true });
      socket.drop(1000);
    }
  }
  function request(socket, { Id, LengthBytes }) {
    const upload = (socket.upload = server.uploads.get(Id));
    if (upload.length === null) {
      Object.assign(upload, {
        length: LengthBytes,
        bytes: new Uint8Array(LengthBytes),
        mask: new Uint8Array(LengthBytes),
        state: "receiving",
      });
    }
    socket.position = server.missing(upload)[0]?.[0] ?? LengthBytes;
    socket.say("MsgUploadConf", {
      ChunkSizeKB: chunk_kb,
      FilePos: socket.position,
      SendAhead: send_ahead,
      ...(additions && { Additions: 1 }),
    });
    if (socket.position === LengthBytes) finish(socket);
  }
  function store(socket, bytes) {
    if (socket.readyState !== 1) return;
    server.store(socket.upload, socket.position, bytes);
    socket.position += bytes.length;
    socket.say("MsgChunkAck", { ChunkSize: bytes.length, ...(additions && { Offset: socket.position }) });
    if (socket.position === socket.upload.length) finish(socket);
  }
  function finish(socket) {
    if (additions) socket.say("MsgPhase", { Phase: "processing" });
    if (!server.finishes) return;
    after(50, () => {
      server.change(socket.upload, "finished");
      socket.say("MsgAllDone", { Success: true });
      socket.drop(1000);
    });
  }
}
