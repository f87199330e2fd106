/**
 * Incoming!!, the browser library: uploads files of any size, whatever the network does.
 *
 * As a script, it makes one global, `incoming`:
 *
 * ```html
 * <script src="https://files.example/incoming/0.1/frontend/incoming.js"></script>
 * <script>
 *   const uploader = incoming.Uploader(upload_id, file);
 *   uploader.onprogress = (u) => { bar.value = u.frac_complete; };
 *   uploader.onfinished = () => { bar.hidden = true; };
 *   uploader.start();
 * </script>
 * ```
 *
 * As a module:
 *
 * ```js
 * import { Uploader } from "https://files.example/incoming/0.1/frontend/incoming.mjs";
 * ```
 */

/** A name of the closed set of errors, as in {@link errors}. */
export type ErrorName =
  | "bad_request"
  | "unauthorized"
  | "forbidden"
  | "forbidden_origin"
  | "wrong_secret"
  | "unknown_upload"
  | "not_found"
  | "method_not_allowed"
  | "too_slow"
  | "replaced"
  | "file_changed"
  | "already_complete"
  | "cancelled"
  | "expired"
  | "damaged"
  | "length_required"
  | "too_late"
  | "not_ready"
  | "too_large"
  | "unsupported_media_type"
  | "digest_mismatch"
  | "over_quota"
  | "internal"
  | "not_implemented"
  | "unavailable"
  | "no_space"
  | "undeliverable"
  | "file_unreadable"
  | "upgrade_required";

/**
 * The number of each error. A number never changes its meaning.
 *
 * ```js
 * if (uploader.error_code === incoming.errors.file_changed) ask_for_the_right_file();
 * ```
 */
export const errors: Readonly<Record<ErrorName, number>>;

/** The version of the library, such as "0.1.0". */
export const version: string;

/**
 * Names the host of the Incoming!! server, with its port if it needs one:
 * `"files.example"`, `"files.example:8443"`.
 *
 * Usually not needed: the server is where this library was loaded from. An app
 * that bundles the library, or serves a copy of it, calls this once, before the
 * first {@link Uploader} is made. A URL will do, too; its path is then taken for
 * the prefix of the server (`"https://example/uploads"`; otherwise `/incoming`).
 *
 * @throws TypeError when it isn't a host name.
 */
export function set_server_hostname(hostname: string): void;

/**
 * The ticket that this file was last uploaded under in this browser, if that
 * upload hasn't ended; otherwise null. For going on after a reload of the page:
 *
 * ```js
 * const remembered = await incoming.previous(file);
 * // The back end decides whether this person may go on with it.
 * const upload_id = await ask_back_end_for_ticket({ remembered });
 * incoming.Uploader(upload_id, file).start();
 * ```
 */
export function previous(file: File): Promise<string | null>;

export interface UploaderOptions {
  /**
   * How the bytes travel. "auto", the default, uses what gets through, plain
   * HTTP requests first; the others use that transport and no other.
   */
  transport?: "auto" | "http" | "websocket";
}

/**
 * Where an upload is: on its way ("uploading"), complete and with the server or
 * the app ("processing"), or at one of its three ends.
 */
export type Phase = "uploading" | "processing" | "finished" | "cancelled" | "failed";

/** Called with the uploader that it is about. What it throws is reported and doesn't stop the upload. */
export type UploaderCallback = ((uploader: Uploader) => void) | null;

/** Uploads one file. */
export interface Uploader {
  /** Name of the file, without a path. */
  readonly filename: string;
  /** Length of the file, in bytes. */
  readonly bytes_total: number;
  /** Bytes that have been sent. */
  readonly bytes_tx: number;
  /** Bytes that have arrived and are safe. */
  readonly bytes_acked: number;
  /** Bytes that have been sent and are not known to be safe yet. */
  readonly bytes_ahead: number;
  /**
   * The part of the file that has arrived, 0 to 1. At 1 the upload isn't finished
   * yet: the app still has to take the file.
   */
  readonly frac_complete: number;
  /** Chunks sent over this connection. */
  readonly chunks_tx_now: number;
  /** Chunks sent over this connection that have arrived. */
  readonly chunks_acked_now: number;
  /** Chunks sent over this connection that have not arrived yet. */
  readonly chunks_ahead: number;
  /** Speed of the last seconds, from what arrived; null while it is unknown. */
  readonly bytes_per_second: number | null;
  /** Seconds until all has arrived, at that speed; null while it is unknown. */
  readonly seconds_left: number | null;

  /** What is going on, in a few words of English. */
  readonly state_msg: string;
  /** Why it was cancelled; "" if it wasn't, or if nobody gave a reason. */
  readonly cancel_msg: string;
  /** One of {@link errors}, or 0. Anything but 0 is the end; the network being down is not an error. */
  readonly error_code: number;
  /** A sentence about the error; "" if there is none. */
  readonly error_msg: string;
  readonly phase: Phase;
  /** The transport in use, "" before there is one. */
  readonly transport: "http" | "websocket" | "";

  /** The server has answered, and nothing has gone wrong since. */
  readonly connected: boolean;
  /** The app has the file. */
  readonly finished: boolean;
  readonly paused: boolean;
  readonly can_pause: boolean;
  /** The server has been asked to cancel, or will be as soon as it can be reached. */
  readonly cancelling: boolean;
  readonly cancelled: boolean;
  /** False at the end, and once the app is being given the file. */
  readonly can_cancel: boolean;

  /** Called whenever anything above changes. */
  onprogress: UploaderCallback;
  /** Called once, after onprogress, when the app has the file. */
  onfinished: UploaderCallback;
  /** Called once, after onprogress, when the upload has been cancelled, here or elsewhere. */
  oncancelled: UploaderCallback;
  /** Called once, after onprogress, when the upload can't go on; see error_code. */
  onerror: UploaderCallback;

  /** Begins, or goes on after a pause. From then on it goes on by itself, whatever the network does. */
  start(): void;
  /** Stops until start() is called. Nothing happens unless can_pause. */
  pause(): void;
  /** Cancels for good, also while paused or offline. Nothing happens unless can_cancel. */
  cancel(reason?: string): void;
}

/**
 * Makes an uploader for one file; it does nothing before `start()`. `new` may be
 * left out. `upload_id` is a ticket that the back end got from the server; each
 * file needs its own.
 *
 * @throws TypeError when an argument or an option isn't one.
 */
export const Uploader: {
  new (upload_id: string, file: File, options?: UploaderOptions): Uploader;
  (upload_id: string, file: File, options?: UploaderOptions): Uploader;
  readonly prototype: Uploader;
};

declare const incoming: Readonly<{
  set_server_hostname: typeof set_server_hostname;
  Uploader: typeof Uploader;
  previous: typeof previous;
  errors: typeof errors;
  version: typeof version;
}>;
export default incoming;

/** The classic script makes the same things members of the global `incoming`. */
export as namespace incoming;
