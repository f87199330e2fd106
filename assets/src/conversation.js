import { clock } from "./clock.js";
import { BLOCKED, FATAL, Failure, PASSING, error_name, fatal, lost } from "./errors.js";
import { next_opening } from "./openings.js";
import { FINISHED, cancelled } from "./outcome.js";
import { ReadAhead } from "./read_ahead.js";
import { well_formed } from "./text.js";

/** Above so many bytes in the browser's buffer, more wouldn't be sent any sooner. */
const BUFFER_ENOUGH = 8 * 1024 * 1024;
/** Milliseconds between looks at the buffer, which reports nothing by itself. */
const LOOK = 20;
/** Chunks that are read before the buffer has room for them. */
const READ_AHEAD = 3;
/** Milliseconds that acks are counted for until they tell a speed: they come in bursts. */
const MEASURE = 100;
/** Milliseconds of silence, while the server processes the file, after which the connection is not trusted. */
const QUIET = 60_000;

/** What a close code means; any other is a connection that broke. */
const CLOSED = {
  1009: () => new Failure(BLOCKED, "too_large", "a chunk is too large for the connection", { status: 413 }),
  1013: (reason) =>
    reason === "" || reason === "no_space"
      ? new Failure(PASSING, "no_space", "the server has no room at the moment")
      : new Failure(PASSING, "unavailable", reason),
  4001: () => fatal("replaced", "the upload goes on somewhere else"),
};

/** One WebSocket connection, from the first message to its end. */
export class Conversation {
  #socket;
  #job;
  #chunk_size;
  #reporter;
  #watch;
  #end;
  #ended;
  #requested = false;
  #agreed = null;
  #position = 0;
  #reader;
  #cancel_reason = null;
  #measured_at = 0;
  #measured = 0;
  #pumping = false;
  #buffered = 0;
  #timers = {};

  constructor(socket, job, chunk_size, reporter, watch) {
    this.#socket = socket;
    this.#job = job;
    this.#chunk_size = chunk_size;
    this.#reporter = reporter;
    this.#watch = watch;
    this.#ended = new Promise((resolve, reject) => (this.#end = { resolve, reject }));
    this.#ended.catch(() => {});
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code, reason }) =>
      this.#end.reject(CLOSED[code]?.(reason) ?? lost("the connection was lost"));
  }

  /** Resolves with the outcome, or with null when the connection is not to be trusted any more. */
  upload(fingerprint) {
    this.#request({ Fingerprint: fingerprint });
    return this.#ended;
  }

  /** Resolves with the outcome. */
  cancel(reason) {
    this.#cancel_reason = reason;
    if (!this.#requested) this.#request({});
    else if (this.#agreed) this.#say_cancel();
    return this.#ended;
  }

  pause() {
    this.#say("MsgPause", { Pause: true });
  }

  close() {
    this.#watch.stop();
    Object.values(this.#timers).forEach((call_off) => call_off());
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#end.reject(lost("closed"));
  }

  #say(type, data) {
    this.#socket.send(JSON.stringify({ MsgType: type, MsgData: data }));
  }

  #request(additions) {
    const { id, file } = this.#job;
    this.#requested = true;
    this.#expect_answer();
    this.#say("MsgUploadReq", {
      Id: id,
      LengthBytes: file.size,
      Name: well_formed(file.name ?? ""),
      Additions: 1,
      Opening: next_opening(),
      ...additions,
    });
  }

  #say_cancel() {
    this.#expect_answer();
    this.#say("MsgCancel", { Reason: well_formed(this.#cancel_reason) });
  }

  #expect_answer() {
    this.#watch.start(() => this.#end.reject(lost("nothing moved any more")));
  }

  #hear(text) {
    const { MsgType: type, MsgData: data } = parse(text);
    if (Object.prototype.hasOwnProperty.call(this.#heard, type)) this.#heard[type](data ?? {});
  }

  #heard = {
    MsgUploadConf: (data) => this.#agree(data),
    MsgChunkAck: (data) => this.#acked(data),
    MsgPhase: ({ Phase }) => Phase === "processing" && this.#processing(),
    MsgAllDone: () => this.#end.resolve(FINISHED),
    MsgCancelAck: () => this.#end.resolve(cancelled(this.#cancel_reason ?? "")),
    MsgCancel: ({ Reason }) => this.#end.resolve(cancelled(Reason)),
    MsgError: ({ ErrorCode, Msg }) =>
      this.#end.reject(new Failure(FATAL, error_name(ErrorCode), Msg || "the server gave the upload up")),
  };

  #agree(data) {
    this.#agreed = data;
    if (this.#cancel_reason !== null) return this.#say_cancel();
    const { tally } = this.#job;
    if (data.FilePos > tally.total) return this.#end.reject(fatal("file_changed", "the server has more than this"));
    this.#watch.stop();
    this.#position = data.FilePos ?? 0;
    this.#reader = new ReadAhead(this.#job.file, this.#position);
    tally.begin(this.#position);
    this.#say("MsgAck", { Ack: true });
    if (tally.complete) return this.#processing();
    this.#reporter.uploading();
    this.#pump();
  }

  #acked({ ChunkSize, Offset }) {
    const { tally } = this.#job;
    tally.chunk_acked(Offset ?? tally.acked + ChunkSize);
    this.#measure(ChunkSize);
    this.#watch.confirmed();
    if (tally.complete) return this.#processing();
    if (tally.chunks_acked >= tally.chunks_tx) this.#watch.stop();
    this.#look();
  }

  /** Chunks wait for each other on the way; what one took begins with the ack of the one before. */
  #measure(bytes) {
    const { tally } = this.#job;
    const elapsed = clock.now() - this.#measured_at;
    this.#measured += bytes;
    if (elapsed < MEASURE && tally.chunks_acked < tally.chunks_tx) return;
    this.#chunk_size.took(this.#measured, elapsed);
    this.#begin_measure();
  }

  #begin_measure() {
    this.#measured_at = clock.now();
    this.#measured = 0;
  }

  #processing() {
    this.#watch.stop();
    // With the additions the server says so when it begins to complete the file: from then on it cancels no more.
    this.#reporter.processing(!this.#agreed?.Additions);
    // A server of version 0.1 refuses a second connection, so there the first one has to do.
    if (this.#agreed?.Additions) this.#timer("quiet", QUIET, () => this.#end.resolve(null));
  }

  async #pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      for (this.#read_ahead(); this.#may_send; this.#read_ahead()) this.#send(await this.#reader.take());
    } catch {
      this.#end.reject(fatal("file_unreadable", "the file can't be read any more"));
    }
    this.#pumping = false;
  }

  #read_ahead() {
    if (this.#open) this.#reader.prepare(this.#pieces_ahead, this.#size);
  }

  /** Before the first chunk has arrived we don't know how long the next ones should be. */
  get #pieces_ahead() {
    const { tally } = this.#job;
    if (this.#chunk_size.proven) return READ_AHEAD;
    return tally.chunks_tx === tally.chunks_acked ? 1 : 0;
  }

  get #size() {
    return this.#chunk_size.within(this.#agreed.ChunkSizeKB * 1024);
  }

  get #may_send() {
    const { tally } = this.#job;
    const ahead = this.#chunk_size.proven ? this.#agreed.SendAhead : 1;
    return (
      this.#open &&
      this.#position < tally.total &&
      tally.chunks_tx - tally.chunks_acked < ahead &&
      // What is in the buffer can't be called back, so on a slow line little is put there.
      this.#socket.bufferedAmount < this.#chunk_size.within(BUFFER_ENOUGH)
    );
  }

  get #open() {
    return this.#socket.readyState === WebSocket.OPEN && this.#socket.onmessage && this.#cancel_reason === null;
  }

  #send(bytes) {
    const { tally } = this.#job;
    if (!this.#open) return;
    if (tally.chunks_tx === tally.chunks_acked) this.#begin_flight();
    const { byteLength } = bytes;
    this.#socket.send(bytes);
    this.#position += byteLength;
    tally.chunk_sent();
    this.#look();
  }

  #begin_flight() {
    this.#begin_measure();
    this.#watch.start(() => this.#stalled());
  }

  #stalled() {
    this.#chunk_size.stalled(this.#size);
    this.#end.reject(lost("nothing moved any more"));
  }

  /** Counts what has left the browser, and looks again while something is left in its buffer. */
  #look() {
    const { tally } = this.#job;
    const buffered = this.#socket.bufferedAmount;
    if (buffered < this.#buffered) this.#watch.moved();
    this.#buffered = buffered;
    tally.set_ahead(Math.max(0, this.#position - tally.acked - buffered));
    this.#pump();
    if (buffered > 0) this.#timer("look", LOOK, () => this.#look());
  }

  #timer(name, ms, f) {
    this.#timers[name]?.();
    this.#timers[name] = clock.after(ms, f);
  }
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}
