// The closed set of errors. The numbers are the server's; a code never changes
// its meaning and is never used again for something else.

export const errors = Object.freeze({
  bad_request: 1,
  unauthorized: 2,
  forbidden: 3,
  forbidden_origin: 4,
  wrong_secret: 5,
  unknown_upload: 6,
  not_found: 7,
  method_not_allowed: 8,
  too_slow: 9,
  replaced: 10,
  file_changed: 11,
  already_complete: 12,
  cancelled: 13,
  expired: 14,
  damaged: 15,
  length_required: 16,
  too_late: 17,
  not_ready: 18,
  too_large: 19,
  unsupported_media_type: 20,
  digest_mismatch: 21,
  over_quota: 22,
  internal: 23,
  not_implemented: 24,
  unavailable: 25,
  no_space: 26,
  undeliverable: 27,
  file_unreadable: 28,
  upgrade_required: 29,
});

/** The name of an error code; `internal` for a code that we don't know. */
export function error_name(code) {
  const known = Object.keys(errors).find((name) => errors[name] === code);
  return known ?? "internal";
}

/** The upload can't go on. */
export const FATAL = "fatal";
/** It goes on after a while. */
export const PASSING = "passing";
/** It will never go on over this transport, but perhaps over the other. */
export const BLOCKED = "blocked";

/**
 * Why an attempt ended early. `error` is a name of the table above, or "" for
 * trouble on the network, which has no code because nobody gave an answer.
 * `retry_after` is in seconds; `remember` says whether a blocked transport is
 * worth avoiding for the rest of the page's life.
 */
export class Failure extends Error {
  constructor(kind, error, message, { status = 0, retry_after = null, remember = true } = {}) {
    super(message);
    Object.assign(this, { kind, error, status, retry_after, remember });
  }

  get code() {
    return errors[this.error] ?? 0;
  }

  /** Nobody answered. */
  get network() {
    return this.error === "";
  }

  /** The same failure, judged differently. */
  as(kind, { retry_after = this.retry_after, remember = this.remember } = {}) {
    const { error, message, status } = this;
    return new Failure(kind, error, message, { status, retry_after, remember });
  }
}

export const fatal = (error, message) => new Failure(FATAL, error, message);
export const lost = (message, details) => new Failure(PASSING, "", message, details);

/** Whatever was thrown, as a Failure; a fault of our own ends the upload, and says so. */
export function as_failure(thrown) {
  if (thrown instanceof Failure) return thrown;
  console.warn("incoming: unexpected error", thrown);
  return fatal("internal", String(thrown?.message ?? thrown));
}
