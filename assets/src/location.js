// Where the server is. Usually where this script came from.

const SCRIPT = /^(.*?)(?:\/0\.1)?\/frontend\/incoming\.m?js$/;
const DEFAULT_PREFIX = "/incoming";

/** Knows the base URL, `{origin}{prefix}/0.1/frontend/`. */
export class Location {
  #origin;
  #prefix = DEFAULT_PREFIX;

  /**
   * `script_url` is where the library was loaded from. A copy that an app
   * bundles or serves by itself says nothing about the server, which is then
   * taken to be in the same place as the page.
   */
  constructor(script_url, page_url) {
    const script = parse(script_url);
    const match = script && SCRIPT.exec(script.pathname);
    this.#origin = origin_of(match ? script : parse(page_url));
    if (match) this.#prefix = match[1];
  }

  /** `hostname` is a host, perhaps with a port; a URL will do, too. */
  set_hostname(hostname) {
    const text = String(hostname).trim();
    const url = parse(text.includes("://") ? text : `${this.#scheme}//${text}`);
    if (!origin_of(url) || /[\s@]/.test(text)) throw new TypeError(`not a hostname: ${hostname}`);
    this.#origin = origin_of(url);
    const path = url.pathname.replace(/\/+$/, "");
    if (path) this.#prefix = path;
  }

  get base() {
    if (!this.#origin) throw new Error("call incoming.set_server_hostname() first");
    return `${this.#origin}${this.#prefix}/0.1/frontend/`;
  }

  get #scheme() {
    return parse(this.#origin)?.protocol ?? "https:";
  }
}

/** A page from the disk has the origin "null", which is nowhere. */
function origin_of(url) {
  return url && url.host ? url.origin : null;
}

function parse(url) {
  try {
    return new URL(url);
  } catch {
    return null;
  }
}
