import { BLOCKED, FATAL, Failure, PASSING, error_name, errors, lost } from "./errors.js";

/** What an answer means that didn't come from the server but from something before it. */
const BARE = {
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  405: "method_not_allowed",
  413: "too_large",
  429: "over_quota",
  501: "not_implemented",
  507: "no_space",
};
const BARE_PASSING = [408, 423, 425, 429, 500, 502, 503, 504, 507];
/** Ours, but about the way the request was made, not about the upload. */
const WRONG_WAY = ["method_not_allowed", "not_implemented"];

/**
 * One request whose answer is the status of an upload. Resolves with the
 * status, or rejects with a Failure. XMLHttpRequest rather than fetch, because
 * fetch doesn't tell how much of a body has been sent.
 */
export async function ask(method, url, options) {
  const answer = await exchange(method, url, options);
  if (answer.status < 200 || answer.status > 299) throw refusal(answer);
  if (typeof answer.json?.phase === "string") return answer.json;
  warn_once(`incoming: ${url} doesn't answer like an Incoming!! server`);
  throw new Failure(PASSING, "unavailable", "something else answered in place of the server");
}

const warned = new Set();

function warn_once(message) {
  if (!warned.has(message)) console.warn(message);
  warned.add(message);
}

function exchange(method, url, { headers = {}, body = null, timeout = 0, signal, on_progress } = {}) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(lost("stopped"));
    const xhr = new XMLHttpRequest();
    const abort = () => xhr.abort();
    const end = (settle) => () => {
      signal?.removeEventListener("abort", abort);
      settle();
    };
    xhr.open(method, url);
    xhr.timeout = timeout;
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.onload = end(() => resolve(answer_of(xhr)));
    xhr.onerror = end(() => reject(lost("the connection was lost")));
    xhr.ontimeout = end(() => reject(lost("the server didn't answer in time")));
    xhr.onabort = end(() => reject(lost("stopped")));
    // A listener on `upload` costs a preflight request on other origins, so only where it is of use.
    if (on_progress) xhr.upload.onprogress = (event) => on_progress(event.loaded);
    signal?.addEventListener("abort", abort);
    xhr.send(body);
  });
}

function answer_of(xhr) {
  return {
    status: xhr.status,
    json: parse_json(xhr.responseText),
    // Browsers complain about a header that they may not show, so it is only asked for where it matters.
    retry_after: xhr.status >= 400 ? seconds(xhr.getResponseHeader("Retry-After")) : null,
  };
}

function parse_json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Retry-After is a number of seconds or a date. */
export function seconds(value) {
  if (!value) return null;
  const number = Number(value);
  if (Number.isFinite(number)) return Math.max(0, number);
  const date = Date.parse(value);
  return Number.isNaN(date) ? null : Math.max(0, (date - Date.now()) / 1000);
}

function refusal({ status, json, retry_after }) {
  const details = { status, retry_after };
  const error = json?.error;
  if (typeof error?.code !== "number") return bare_refusal(status, details);
  const name = error.name in errors ? error.name : error_name(error.code);
  return new Failure(kind_of(name, error.retryable), name, String(error.message ?? name), details);
}

function kind_of(name, retryable) {
  if (retryable) return PASSING;
  return WRONG_WAY.includes(name) ? BLOCKED : FATAL;
}

function bare_refusal(status, details) {
  const passing = BARE_PASSING.includes(status) || status > 504;
  const name = BARE[status] ?? (passing ? "unavailable" : "bad_request");
  return new Failure(passing ? PASSING : BLOCKED, name, `the server answered ${status}`, details);
}
