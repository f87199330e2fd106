// Incoming!! 0.1.0, the browser library. Built from assets/src by "npm run build"; change it there.
(() => {
  // src/errors.js
  var errors = Object.freeze({
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
    upgrade_required: 29
  });
  function error_name(code) {
    const known2 = Object.keys(errors).find((name) => errors[name] === code);
    return known2 ?? "internal";
  }
  var FATAL = "fatal";
  var PASSING = "passing";
  var BLOCKED = "blocked";
  var Failure = class _Failure extends Error {
    constructor(kind, error, message, { status = 0, retry_after = null, remember: remember2 = true } = {}) {
      super(message);
      Object.assign(this, { kind, error, status, retry_after, remember: remember2 });
    }
    get code() {
      return errors[this.error] ?? 0;
    }
    /** Nobody answered. */
    get network() {
      return this.error === "";
    }
    /** The same failure, judged differently. */
    as(kind, { retry_after = this.retry_after, remember: remember2 = this.remember } = {}) {
      const { error, message, status } = this;
      return new _Failure(kind, error, message, { status, retry_after, remember: remember2 });
    }
  };
  var fatal = (error, message) => new Failure(FATAL, error, message);
  var lost = (message, details) => new Failure(PASSING, "", message, details);
  function as_failure(thrown) {
    if (thrown instanceof Failure) return thrown;
    console.warn("incoming: unexpected error", thrown);
    return fatal("internal", String(thrown?.message ?? thrown));
  }

  // src/fingerprint.js
  var SAMPLE = 64 * 1024;
  var known = /* @__PURE__ */ new WeakMap();
  function fingerprint(file) {
    if (!known.has(file)) {
      const promise = compute(file);
      promise.catch(() => known.delete(file));
      known.set(file, promise);
    }
    return known.get(file);
  }
  async function compute(file) {
    const hash = new Hash();
    hash.add(new TextEncoder().encode(`${file.name ?? ""}
${file.size}
${file.lastModified ?? 0}
`));
    for (const start of sample_starts(file.size)) {
      hash.add(new Uint8Array(await file.slice(start, start + SAMPLE).arrayBuffer()));
    }
    return `1-${file.size}-${hash.hex}`;
  }
  function sample_starts(size) {
    const last = Math.max(0, size - SAMPLE);
    const middle = Math.max(0, Math.floor((size - SAMPLE) / 2));
    return [.../* @__PURE__ */ new Set([0, middle, last])];
  }
  var Hash = class {
    #a = 2166136261;
    #b = 789269575;
    add(bytes) {
      let a = this.#a;
      let b = this.#b;
      for (let i = 0; i < bytes.length; i++) {
        a = Math.imul(a ^ bytes[i], 16777619);
        b = Math.imul(b ^ bytes[i] ^ a >>> 24, 16777629);
      }
      this.#a = a;
      this.#b = b;
    }
    get hex() {
      return [this.#a, this.#b].map((n) => (n >>> 0).toString(16).padStart(8, "0")).join("");
    }
  };

  // src/location.js
  var SCRIPT = /^(.*?)(?:\/0\.1)?\/frontend\/incoming\.m?js$/;
  var DEFAULT_PREFIX = "/incoming";
  var Location = class {
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
  };
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

  // src/memory.js
  var PREFIX = "incoming:";
  var KEEP = 14 * 24 * 3600 * 1e3;
  function recall(fingerprint2) {
    return attempt((storage) => read(storage, PREFIX + fingerprint2)?.id ?? null);
  }
  function remember(fingerprint2, id) {
    attempt((storage) => {
      drop_old(storage);
      storage.setItem(PREFIX + fingerprint2, JSON.stringify({ id, at: Date.now() }));
    });
  }
  function forget(fingerprint2, id) {
    attempt((storage) => {
      if (read(storage, PREFIX + fingerprint2)?.id === id) storage.removeItem(PREFIX + fingerprint2);
    });
  }
  function attempt(f) {
    try {
      return f(globalThis.localStorage) ?? null;
    } catch {
      return null;
    }
  }
  function read(storage, key) {
    try {
      const { id, at } = JSON.parse(storage.getItem(key));
      return typeof id === "string" && Date.now() - at < KEEP ? { id } : null;
    } catch {
      return null;
    }
  }
  function drop_old(storage) {
    const keys = Array.from({ length: storage.length }, (_, i) => storage.key(i));
    const ours = keys.filter((key) => key?.startsWith(PREFIX));
    ours.filter((key) => !read(storage, key)).forEach((key) => storage.removeItem(key));
  }

  // src/chunk_size.js
  var KIB = 1024;
  var START = 512 * KIB;
  var FLOOR = 64 * KIB;
  var GOAL = 2e3;
  var LEAP = 16;
  var ChunkSize = class {
    #size = START;
    #wanted = START;
    #ceiling = Infinity;
    #arrived = 0;
    #proven = false;
    /** Has any chunk arrived yet? Before, nothing is known about the speed. */
    get proven() {
      return this.#proven;
    }
    /** The largest body that hasn't been refused yet. */
    get ceiling() {
      return this.#ceiling;
    }
    /** Bytes of the next chunk for a server that takes at most `limit`. */
    within(limit) {
      return Math.min(limit, this.#ceiling, this.#size);
    }
    /** Lanes, of at most `most`, that the line can bear: where even the smallest chunks take long, fewer go at a time. */
    lanes(most) {
      return Math.max(1, Math.min(most, Math.floor(2 * most * this.#wanted / FLOOR)));
    }
    /** A chunk arrived after `ms`. One much shorter than usual can only prove that the line is faster than we thought. */
    took(bytes, ms) {
      this.#proven = true;
      this.#arrived = Math.max(this.#arrived, bytes);
      const wanted = Math.min(LEAP, GOAL / Math.max(1, ms)) * bytes;
      if (wanted > this.#size || bytes * 2 >= this.#size) this.#want(wanted);
    }
    /** A chunk got stuck. */
    stalled(bytes) {
      this.#want(Math.min(this.#size, bytes / 2));
    }
    /**
     * Something on the way refuses bodies of this length. False: it can't be smaller. The limit is somewhere between
     * what has arrived and this, so half as much is tried, or the middle of the two where they are far apart.
     */
    refused(bytes) {
      const middle = this.#arrived > 0 ? Math.sqrt(this.#arrived * bytes) : bytes;
      this.#ceiling = Math.min(this.#ceiling, Math.max(FLOOR, Math.floor(Math.min(bytes / 2, middle))));
      return bytes > FLOOR;
    }
    #want(bytes) {
      this.#wanted = bytes;
      this.#size = Math.max(FLOOR, Math.floor(bytes));
    }
  };
  function share(size, left, lanes) {
    const least = Math.min(size, Math.max(FLOOR, Math.ceil(size / 8)));
    return Math.max(least, Math.min(size, Math.ceil(left / lanes)));
  }

  // src/lanes.js
  var Lanes = class {
    #free;
    #held = /* @__PURE__ */ new Map();
    #queue = [];
    constructor(count2) {
      this.#free = count2;
    }
    /** Resolves with a function that gives the lane back, or with null when `signal` aborts first. */
    take(owner, signal) {
      return new Promise((resolve) => {
        if (signal?.aborted) return resolve(null);
        const waiter = { owner, resolve, leave: () => this.#leave(waiter), signal };
        signal?.addEventListener("abort", waiter.leave);
        this.#queue.push(waiter);
        this.#serve();
      });
    }
    #leave(waiter) {
      this.#queue = this.#queue.filter((other) => other !== waiter);
      waiter.resolve(null);
    }
    #serve() {
      while (this.#free > 0 && this.#queue.length > 0) this.#give(this.#neediest());
    }
    #neediest() {
      return this.#queue.reduce((best, next) => this.#count(next) < this.#count(best) ? next : best);
    }
    #count({ owner }) {
      return this.#held.get(owner) ?? 0;
    }
    #give(waiter) {
      this.#queue = this.#queue.filter((other) => other !== waiter);
      waiter.signal?.removeEventListener("abort", waiter.leave);
      this.#change(waiter.owner, 1);
      waiter.resolve(this.#release_once(waiter.owner));
    }
    #release_once(owner) {
      let held = true;
      return () => {
        if (!held) return;
        held = false;
        this.#change(owner, -1);
        this.#serve();
      };
    }
    #change(owner, by) {
      this.#free -= by;
      const count2 = this.#count({ owner }) + by;
      if (count2 > 0) this.#held.set(owner, count2);
      else this.#held.delete(owner);
    }
  };

  // src/page.js
  var PREFERENCE = Object.freeze(["http", "websocket"]);
  var Page = class {
    lanes = new Lanes(4);
    polls = new Lanes(1);
    chunk_size = new ChunkSize();
    #long_poller = null;
    #blocked = /* @__PURE__ */ new Set();
    /** The transport to begin with. */
    get first_choice() {
      return PREFERENCE.find((name) => !this.#blocked.has(name)) ?? PREFERENCE[0];
    }
    /** This transport doesn't get through from here. */
    avoid(name) {
      this.#blocked.add(name);
    }
    /** Neither got through, so what we thought to know is worth nothing. */
    avoid_none() {
      this.#blocked.clear();
    }
    /** True when `who` may be the one that waits at the server. */
    claim_long_poll(who) {
      this.#long_poller ??= who;
      return this.#long_poller === who;
    }
    leave_long_poll(who) {
      if (this.#long_poller === who) this.#long_poller = null;
    }
  };
  var other_transport = (name) => PREFERENCE.find((other) => other !== name);

  // src/clock.js
  var clock = {
    /** Milliseconds on a clock that never goes back. */
    now: () => performance.now(),
    /** Calls `f` after `ms` milliseconds; returns a function that calls it off. */
    after(ms, f) {
      const timer = setTimeout(f, ms);
      return () => clearTimeout(timer);
    },
    random: () => Math.random()
  };
  function listen(target, event, f) {
    target?.addEventListener?.(event, f);
    return () => target?.removeEventListener?.(event, f);
  }
  function sleep(ms, { signal, online = false } = {}) {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const undo = [];
      const wake = () => {
        undo.forEach((f) => f());
        resolve();
      };
      undo.push(clock.after(ms, wake), listen(signal, "abort", wake));
      if (online) undo.push(listen(globalThis, "online", wake));
    });
  }

  // src/backoff.js
  var FIRST = 650;
  var LONGEST = 3e4;
  var OFTEN = 600;
  var LATER = 4e3;
  var LONG = 5 * 6e4;
  var CHANCE = 3;
  var Backoff = class {
    #refusals = 0;
    #lost_at = null;
    #in_vain = 0;
    /** Bytes have arrived: whatever was wrong is over. */
    reset() {
      this.#refusals = 0;
      this.#in_vain = 0;
      this.reached();
    }
    /** The server could be reached: the outage is over, though perhaps not what causes it. */
    reached() {
      this.#lost_at = null;
    }
    /**
     * Milliseconds to wait after `failure`. The time that the attempt itself took (`spent`) has been waited already:
     * on a dead line an attempt waits for an answer, not we for the attempt.
     */
    next(failure, spent = 0) {
      if (failure.retry_after !== null) return failure.retry_after * 1e3 * (1 + clock.random() / 4);
      return failure.network ? this.#while_lost(spent) : this.#when_refused();
    }
    #when_refused() {
      const middle = FIRST * 2 ** Math.min(this.#refusals++, 10);
      return Math.min(LONGEST, middle * (0.5 + clock.random()));
    }
    #while_lost(spent) {
      if (this.#lost_at === null) this.#begin_outage();
      const jitter = (1 + clock.random()) / 2;
      const pause = Math.max(pause_after(clock.now() - this.#lost_at), this.#pause_in_vain);
      return Math.max(OFTEN * jitter, pause * jitter - spent);
    }
    #begin_outage() {
      this.#lost_at = clock.now();
      this.#in_vain += 1;
    }
    get #pause_in_vain() {
      return this.#in_vain > CHANCE ? Math.min(LONGEST, OFTEN * 2 ** (this.#in_vain - CHANCE)) : 0;
    }
  };
  function pause_after(outage) {
    if (outage > LONG) return Math.min(LONGEST, LATER * outage / LONG);
    return Math.min(LATER, outage > 10 * OFTEN ? outage / 4 : OFTEN);
  }

  // src/diagnosis.js
  var SUSPICIOUS = 2;
  var UNREACHABLE = 3;
  var SOON = 0.5;
  var Diagnosis = class {
    #chunk_size;
    #websocket = null;
    #heard = false;
    #unanswered = 0;
    #opens_lost = 0;
    #loss = null;
    #puts_lost = 0;
    #probing = false;
    constructor(chunk_size) {
      this.#chunk_size = chunk_size;
    }
    /** The server answered. */
    heard({ websocket }) {
      this.#heard = true;
      this.#websocket = websocket ?? this.#websocket;
    }
    opened() {
      this.#opens_lost = 0;
    }
    open_lost() {
      this.#opens_lost += 1;
    }
    get opening_is_suspicious() {
      return this.#opens_lost >= SUSPICIOUS;
    }
    /** A chunk of `size` bytes was lost when `acked` bytes were safe. */
    put_lost(acked, size) {
      this.#loss = { acked, size };
    }
    /** The server can be reached again, and has `acked` bytes; throws if chunks can't reach it. */
    came_back(acked) {
      const loss = this.#loss;
      if (!loss) return;
      this.#loss = null;
      this.#probing = acked <= loss.acked;
      this.#puts_lost = this.#probing ? this.#puts_lost + 1 : 0;
      if (this.#puts_lost >= SUSPICIOUS) this.#send_less(loss.size);
    }
    #send_less(size) {
      this.#puts_lost = 0;
      if (this.#chunk_size.refused(size)) return;
      this.#probing = false;
      throw this.judge(new Failure(BLOCKED, "", "nothing gets through"));
    }
    /** Small requests get through and this one never does. */
    opening_blocked() {
      this.#opens_lost = 0;
      return new Failure(BLOCKED, "", "the upload can't be opened");
    }
    /** The failure in the light of what we know. */
    judge(failure) {
      if (failure.status) this.#heard = true;
      if (failure.kind === BLOCKED) return this.#no_way(failure);
      if (!failure.network) return failure;
      if (this.#unreachable()) return failure.as(BLOCKED, { remember: false });
      return this.#probing && this.#loss ? failure.as(PASSING, { retry_after: SOON }) : failure;
    }
    /** Where there is no other transport, a clear refusal is the end and a silent one has to pass. */
    #no_way(failure) {
      if (this.#websocket !== false) return failure;
      return failure.as(failure.code ? FATAL : PASSING);
    }
    /** Perhaps an older server, which speaks WebSocket only; worth a try, no more. */
    #unreachable() {
      if (this.#heard || globalThis.navigator?.onLine === false) return false;
      this.#unanswered = (this.#unanswered + 1) % UNREACHABLE;
      return this.#unanswered === 0;
    }
  };

  // src/ending.js
  var WAIT = 25;
  var SHORTEST = 300;
  var LONGEST2 = 2e3;
  var Ending = class {
    #page;
    #resource;
    #pause = 0;
    constructor(page, resource) {
      this.#page = page;
      this.#resource = resource;
    }
    /** A status that differs from `version`, or just the next one. */
    async next(version2, signal) {
      await sleep(this.#pause, { signal });
      const status = await (this.#page.claim_long_poll(this) ? this.#long(version2, signal) : this.#short(signal));
      this.#pause = status.version === version2 ? clamp(this.#pause * 1.5) : SHORTEST;
      return status;
    }
    #long(version2, signal) {
      return this.#resource.next_status(version2, WAIT, signal).finally(() => this.#page.leave_long_poll(this));
    }
    async #short(signal) {
      const release = await this.#page.polls.take(this, signal);
      return this.#resource.status(signal).finally(() => release?.());
    }
  };
  var clamp = (ms) => Math.min(LONGEST2, Math.max(SHORTEST, ms));

  // src/outcome.js
  var FINISHED = Object.freeze({ state: "finished" });
  var cancelled = (reason = "") => ({ state: "cancelled", reason });
  function outcome_of({ phase, state, reason }) {
    if (phase === "finished") return FINISHED;
    if (phase === "cancelled") return cancelled(reason);
    if (phase !== "failed") return null;
    const name = state in errors ? state : "internal";
    throw new Failure(FATAL, name, reason || `the upload is ${state}`);
  }
  var HANDING_OVER = ["handing_over", "waiting_for_app"];
  var cancellable = ({ state }) => !HANDING_OVER.includes(state);

  // src/openings.js
  var PAGE = Math.random().toString(36).slice(2).padEnd(1, "0");
  var count = 0;
  var next_opening = () => `${PAGE}.${count += 1}`;

  // src/request.js
  var BARE = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    429: "over_quota",
    501: "not_implemented",
    507: "no_space"
  };
  var BARE_PASSING = [408, 423, 425, 429, 500, 502, 503, 504, 507];
  var WRONG_WAY = ["method_not_allowed", "not_implemented"];
  async function ask(method, url, options) {
    const answer = await exchange(method, url, options);
    if (answer.status < 200 || answer.status > 299) throw refusal(answer);
    if (typeof answer.json?.phase === "string") return answer.json;
    warn_once(`incoming: ${url} doesn't answer like an Incoming!! server`);
    throw new Failure(PASSING, "unavailable", "something else answered in place of the server");
  }
  var warned = /* @__PURE__ */ new Set();
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
      retry_after: xhr.status >= 400 ? seconds(xhr.getResponseHeader("Retry-After")) : null
    };
  }
  function parse_json(text) {
    try {
      return JSON.parse(text);
    } catch {
      return null;
    }
  }
  function seconds(value) {
    if (!value) return null;
    const number = Number(value);
    if (Number.isFinite(number)) return Math.max(0, number);
    const date = Date.parse(value);
    return Number.isNaN(date) ? null : Math.max(0, (date - Date.now()) / 1e3);
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

  // src/text.js
  var LONELY = /[\uD800-\uDFFF]/gu;
  var well_formed = (text) => String(text).replace(LONELY, "�");
  var header_text = (text) => encodeURIComponent(well_formed(text));

  // src/resource.js
  var BYTES = "application/octet-stream";
  var TIMEOUT = 2e4;
  var AGAIN = 4e3;
  var Resource = class {
    #url;
    constructor(base, id) {
      this.#url = `${base}uploads/${encodeURIComponent(id)}`;
    }
    /** Opens the upload: from now on this client owns it. */
    open(file, fingerprint2, signal) {
      return ask("POST", this.#url, { headers: opening(file, fingerprint2), timeout: TIMEOUT, signal });
    }
    /** Opens, sends all and completes in one request. */
    open_whole(file, fingerprint2, { signal, on_progress }) {
      const headers = { ...opening(file, fingerprint2), "Content-Type": BYTES };
      return ask("POST", this.#url, { headers, body: file.slice(0, file.size), signal, on_progress });
    }
    /** Sends the bytes of [start, end). */
    put(session, file, [start, end], { signal, on_progress }) {
      const headers = {
        "Incoming-Session": session,
        "Content-Range": `bytes ${start}-${end - 1}/${file.size}`,
        "Content-Type": BYTES
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
      for (; ; ) {
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
        (failure) => failure.network ? Promise.reject(failure) : 0
      );
    }
    /** The status, as soon as it isn't `version` any more or `wait` seconds have passed. */
    next_status(version2, wait, signal) {
      const url = `${this.#url}?wait=${wait}&since=${version2}`;
      return ask("GET", url, { timeout: wait * 1e3 + TIMEOUT, signal });
    }
    pause(session) {
      return ask("POST", `${this.#url}/pause`, { headers: { "Incoming-Session": session }, timeout: TIMEOUT });
    }
    cancel(reason, signal) {
      const headers = reason ? { "Incoming-Reason": header_text(reason) } : {};
      return ask("DELETE", this.#url, { headers, timeout: TIMEOUT, signal });
    }
  };
  function opening(file, fingerprint2) {
    return {
      "Incoming-Length": String(file.size),
      "Incoming-Name": header_text(file.name ?? ""),
      "Incoming-Fingerprint": fingerprint2,
      "Incoming-Opening": next_opening()
    };
  }

  // src/gaps.js
  var Gaps = class {
    #ranges;
    constructor(missing) {
      this.#ranges = missing.filter(([start, end]) => start < end);
    }
    get empty() {
      return this.#ranges.length === 0;
    }
    /** How many bytes that is. */
    get bytes() {
      return this.#ranges.reduce((sum, [start, end]) => sum + end - start, 0);
    }
    /** Takes at most `size` bytes from the first gap; null when there is none. */
    take(size) {
      if (this.empty) return null;
      const [start, end] = this.#ranges[0];
      const cut = Math.min(end, start + size);
      if (cut === end) this.#ranges.shift();
      else this.#ranges[0] = [cut, end];
      return [start, cut];
    }
    /** Gives a range back that didn't arrive. */
    put_back([start, end]) {
      this.#ranges.push([start, end]);
      this.#ranges.sort((a, b) => a[0] - b[0]);
    }
  };
  function overlap(ranges, [start, end]) {
    return ranges.map(([from, to]) => [Math.max(from, start), Math.min(to, end)]).filter(([from, to]) => from < to);
  }

  // src/sender.js
  var GRACE = 1e3;
  var MOST_LANES = 4;
  var Sender = class {
    #job;
    #page;
    #resource;
    #session;
    #watch;
    #stop = new AbortController();
    #flights = /* @__PURE__ */ new Map();
    #crew = 1;
    #gaps;
    #latest;
    #failure = null;
    constructor(job, page, resource, session, watch, signal) {
      this.#job = job;
      this.#page = page;
      this.#resource = resource;
      this.#session = session;
      this.#watch = watch;
      signal.addEventListener("abort", () => this.#give_up(lost("stopped"), 0));
    }
    /** Resolves with the newest status; rejects with the first Failure. */
    async send(status) {
      this.#latest = status;
      this.#gaps = new Gaps(status.missing);
      const crew = Math.max(1, Math.min(MOST_LANES, status.lanes ?? 1));
      if (!this.#page.chunk_size.proven) await this.#go_ahead(crew);
      this.#crew = this.#page.chunk_size.lanes(crew);
      await Promise.all(Array.from({ length: this.#crew }, (_, lane) => this.#work(lane)));
      this.#watch.stop();
      if (this.#failure) throw this.#failure;
      return this.#latest;
    }
    /** One chunk, which has to itself what `crew` lanes share afterwards. */
    #go_ahead(crew) {
      return this.#in_lane(() => this.#send_one(1, crew));
    }
    async #work(lane) {
      for (let part = (lane + 1) / this.#crew; this.#has_work && this.#is_of_use(lane); part = 1) {
        if (!await this.#in_lane(() => this.#send_one(part))) return;
      }
    }
    /** False when there is no lane for us any more. */
    async #in_lane(act) {
      const release = await this.#page.lanes.take(this.#job, this.#stop.signal);
      if (release) await act().finally(release);
      return release !== null;
    }
    #is_of_use(lane) {
      return lane < this.#page.chunk_size.lanes(this.#crew);
    }
    get #has_work() {
      return !this.#failure && !this.#gaps.empty;
    }
    #bytes_of_next(part) {
      const size = this.#page.chunk_size.within(this.#latest.chunk_size);
      return Math.ceil(share(size, this.#gaps.bytes, this.#crew) * part);
    }
    async #send_one(part, sharers = 1) {
      const range = this.#has_work && this.#gaps.take(this.#bytes_of_next(part));
      if (!range) return;
      try {
        await this.#put(range, sharers);
      } catch (failure) {
        await this.#returned(range, failure);
      }
    }
    async #put(range, sharers) {
      const { tally } = this.#job;
      const [began, before] = [clock.now(), tally.acked];
      this.#depart(range);
      const on_progress = (bytes) => this.#moved(range, bytes);
      const status = await this.#resource.put(this.#session, this.#job.file, range, { signal: this.#stop.signal, on_progress }).finally(() => this.#land(range));
      this.#watch.confirmed();
      this.#page.chunk_size.took(range[1] - range[0], (clock.now() - began) * sharers);
      this.#latest = newer(this.#latest, status);
      tally.chunk_acked(status.received);
      this.#take_back(range, status, before);
    }
    /** The server may have kept less than it was sent; nothing at all, and it needs a rest. */
    #take_back(range, { missing }, before) {
      const rest = overlap(missing, range);
      rest.forEach((gap) => this.#gaps.put_back(gap));
      const nothing = rest.length === 1 && rest[0][1] - rest[0][0] === range[1] - range[0];
      if (nothing && this.#job.tally.acked === before) this.#give_up(new Failure(PASSING, "unavailable", "the server kept nothing"), GRACE);
    }
    async #returned(range, failure) {
      this.#gaps.put_back(range);
      this.#job.tally.chunk_returned();
      if (failure.error === "already_complete") return this.#give_up(lost("complete already"), GRACE);
      if (failure.status === 413 && this.#page.chunk_size.refused(range[1] - range[0])) return;
      this.#give_up(await this.#unreadable(range, failure) ?? failure, failure.kind === FATAL ? 0 : GRACE);
    }
    /** A file that changed on the disk looks like a network error, unless one reads it. */
    async #unreadable([start], failure) {
      if (!failure.network || this.#failure) return null;
      return this.#job.file.slice(start, start + 1).arrayBuffer().then(
        () => null,
        () => fatal("file_unreadable", "the file can't be read any more")
      );
    }
    #give_up(failure, grace) {
      this.#failure ??= failure;
      if (grace > 0) clock.after(grace, () => this.#stop.abort());
      else this.#stop.abort();
    }
    #depart(range) {
      if (this.#flights.size === 0) this.#watch.start(() => this.#stalled());
      this.#flights.set(range, 0);
      this.#job.tally.chunk_sent();
    }
    #moved(range, bytes) {
      this.#watch.moved();
      if (this.#flights.has(range)) this.#flights.set(range, bytes);
      this.#count();
    }
    #land(range) {
      this.#flights.delete(range);
      if (this.#flights.size === 0) this.#watch.stop();
      this.#count();
    }
    #count() {
      const bytes = [...this.#flights.values()].reduce((sum, n) => sum + n, 0);
      this.#job.tally.set_ahead(bytes);
    }
    #stalled() {
      const sizes = [...this.#flights.keys()].map(([start, end]) => end - start);
      this.#page.chunk_size.stalled(Math.max(...sizes));
      this.#give_up(lost("nothing moved any more"), 0);
    }
  };
  function newer(a, b) {
    if (b.version !== a.version) return b.version > a.version ? b : a;
    return b.received >= a.received ? b : a;
  }

  // src/stall.js
  var ASK = 3500;
  var ANSWER = 5e3;
  var BEARABLE = 3e4;
  var MOST = 8;
  var StallWatch = class {
    #witness;
    #patience = 1;
    #moved_at = 0;
    #seen = null;
    #call_off = null;
    #on_stall;
    /** `witness(ms)` resolves with the bytes that the server has, and rejects when nobody answers within that time. */
    constructor(witness) {
      this.#witness = witness;
    }
    /** Something moved, so the time starts anew. */
    moved() {
      if (!this.#call_off) return;
      this.#moved_at = clock.now();
      this.#wait();
    }
    /** The server confirmed bytes. */
    confirmed() {
      const needed = clock.now() - this.#moved_at;
      this.#patience = Math.min(MOST, Math.max(1, 2 * needed / (ASK + ANSWER)));
      this.moved();
    }
    start(on_stall) {
      this.stop();
      this.#on_stall = on_stall;
      this.#moved_at = clock.now();
      this.#wait();
    }
    stop() {
      this.#call_off?.();
      this.#call_off = null;
    }
    #wait() {
      this.#after(ASK, () => this.#ask());
    }
    #after(ms, f) {
      this.#call_off?.();
      return this.#call_off = clock.after(ms * this.#patience, f);
    }
    async #ask() {
      const asked = this.#after(ANSWER, () => this.#fire());
      const received = await this.#witness(ANSWER * this.#patience).catch(() => null);
      if (received === null || this.#call_off !== asked) return;
      const grown = this.#seen !== null && received > this.#seen;
      this.#seen = received;
      if (grown) return this.moved();
      if (clock.now() - this.#moved_at < BEARABLE * this.#patience) return this.#wait();
      this.#fire();
    }
    #fire() {
      this.stop();
      this.#patience = Math.min(MOST, this.#patience * 2);
      this.#on_stall();
    }
  };

  // src/http.js
  var SMALL = 1024 * 1024;
  var HttpTransport = class {
    name = "http";
    #job;
    #page;
    #reporter;
    #resource;
    #diagnosis;
    #ending;
    #watch = new StallWatch((ms) => this.#resource.witness(ms));
    #stop = new AbortController();
    #session = null;
    #whole_tried = false;
    constructor(job, page, reporter) {
      this.#job = job;
      this.#page = page;
      this.#reporter = reporter;
      this.#resource = new Resource(job.base, job.id);
      this.#ending = new Ending(page, this.#resource);
      this.#diagnosis = new Diagnosis(page.chunk_size);
    }
    /** Sends what is missing and waits for the end; resolves with the outcome. */
    run() {
      return this.#one_attempt((signal) => this.#upload(signal));
    }
    /** Resolves with the outcome: cancelled, or finished when it was too late. */
    cancel(reason) {
      return this.#one_attempt(async (signal) => {
        const status = await this.#resource.cancel(reason, signal);
        return status.phase === "finished" ? FINISHED : cancelled(reason);
      });
    }
    /** Stops at once; the server is told, but we don't wait for its answer. */
    pause() {
      this.abandon();
      if (this.#session) this.#resource.pause(this.#session).catch(() => {
      });
    }
    abandon() {
      this.#stop.abort();
      this.#watch.stop();
    }
    async #one_attempt(act) {
      this.abandon();
      const { signal } = this.#stop = new AbortController();
      try {
        return await act(signal);
      } catch (failure) {
        throw signal.aborted || !failure.kind ? failure : this.#diagnosis.judge(failure);
      }
    }
    async #upload(signal) {
      let status = await this.#enter(signal);
      for (; ; ) {
        const outcome = outcome_of(status);
        if (outcome) return outcome;
        if (status.reopen) status = await this.#enter_anew(signal);
        status = await (status.missing.length > 0 ? this.#send(status, signal) : this.#news(status, signal));
      }
    }
    /** Opens the upload, or, when that has been done, asks how far it is. */
    async #enter(signal) {
      const status = await (this.#session ? this.#resource.status_after_loss(signal) : this.#open(signal));
      this.#session = status.session ?? this.#session;
      this.#diagnosis.heard(status);
      this.#count(status);
      this.#diagnosis.came_back(status.received);
      return status;
    }
    /** The server's disk has lost bytes: what we know of the upload is wrong, and our session has ended. */
    #enter_anew(signal) {
      this.#session = null;
      return this.#enter(signal);
    }
    #count({ received, in_one }) {
      const { tally } = this.#job;
      tally.begin(received);
      if (!in_one) return;
      tally.chunk_sent();
      tally.chunk_acked(received);
    }
    async #open(signal) {
      if (this.#diagnosis.opening_is_suspicious) await this.#look(signal);
      const fingerprint2 = await this.#job.identify();
      const release = await this.#page.lanes.take(this.#job, signal);
      if (!release) throw lost("stopped");
      try {
        const status = await this.#open_somehow(fingerprint2, signal);
        this.#diagnosis.opened();
        return status;
      } catch (failure) {
        if (failure.network) this.#diagnosis.open_lost();
        throw failure;
      } finally {
        release();
      }
    }
    /** Opening failed before. Does anything get through at all? */
    async #look(signal) {
      this.#diagnosis.heard(await this.#resource.status(signal));
      throw this.#diagnosis.opening_blocked();
    }
    #open_somehow(fingerprint2, signal) {
      const { file } = this.#job;
      const whole = !this.#whole_tried && file.size <= Math.min(SMALL, this.#page.chunk_size.ceiling);
      return whole ? this.#open_whole(fingerprint2, signal) : this.#resource.open(file, fingerprint2, signal);
    }
    /** Tried once only: if anything is wrong with it, opening and sending are two things again. */
    async #open_whole(fingerprint2, signal) {
      const { file, tally } = this.#job;
      this.#whole_tried = true;
      this.#watch.start(() => this.abandon());
      try {
        const on_progress = (bytes) => this.#moved(bytes);
        const status = await this.#resource.open_whole(file, fingerprint2, { signal, on_progress });
        return { ...status, in_one: true };
      } catch (failure) {
        if (failure.status !== 413) throw failure;
        this.#page.chunk_size.refused(file.size);
        return await this.#resource.open(file, fingerprint2, signal);
      } finally {
        this.#watch.stop();
        tally.set_ahead(0);
      }
    }
    #moved(bytes) {
      this.#watch.moved();
      this.#job.tally.set_ahead(bytes);
    }
    async #send(status, signal) {
      this.#reporter.uploading();
      const { tally } = this.#job;
      const sender = new Sender(this.#job, this.#page, this.#resource, this.#session, this.#watch, signal);
      try {
        const latest = await sender.send(status);
        return latest.missing.length > 0 ? await this.#resource.status(signal) : latest;
      } catch (failure) {
        if (failure.network) this.#diagnosis.put_lost(tally.acked, this.#page.chunk_size.within(status.chunk_size));
        throw failure;
      }
    }
    #news(status, signal) {
      this.#reporter.processing(cancellable(status));
      return this.#ending.next(status.version, signal);
    }
  };

  // src/connect.js
  var NOWHERE = "no WebSocket connection can be made";
  function connect(url, ms, signal) {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(lost("stopped"));
      const socket = make(url);
      if (!socket) return reject(lost(NOWHERE));
      const give_up = (message) => () => {
        forget2();
        socket.close();
        reject(lost(message));
      };
      const stop = give_up("stopped");
      const call_off = clock.after(ms, give_up("the WebSocket connection didn't open in time"));
      const forget2 = () => {
        call_off();
        signal.removeEventListener("abort", stop);
        socket.onopen = socket.onclose = null;
      };
      signal.addEventListener("abort", stop);
      socket.onclose = give_up(NOWHERE);
      socket.onopen = () => {
        forget2();
        resolve(socket);
      };
    });
  }
  function make(url) {
    try {
      return new WebSocket(url);
    } catch {
      return null;
    }
  }

  // src/read_ahead.js
  var ReadAhead = class {
    #file;
    #position;
    #pieces = [];
    constructor(file, position) {
      this.#file = file;
      this.#position = position;
    }
    /** Sees to it that `count` pieces have been read or are being read; new ones have `size` bytes. */
    prepare(count2, size) {
      while (this.#pieces.length < count2 && this.#position < this.#file.size) this.#read(size);
    }
    /** A promise of the next piece, an ArrayBuffer. */
    take() {
      return this.#pieces.shift();
    }
    #read(size) {
      const end = Math.min(this.#file.size, this.#position + size);
      const piece = this.#file.slice(this.#position, end).arrayBuffer();
      piece.catch(() => {
      });
      this.#pieces.push(piece);
      this.#position = end;
    }
  };

  // src/conversation.js
  var BUFFER_ENOUGH = 8 * 1024 * 1024;
  var LOOK = 20;
  var READ_AHEAD = 3;
  var MEASURE = 100;
  var QUIET = 6e4;
  var CLOSED = {
    1009: () => new Failure(BLOCKED, "too_large", "a chunk is too large for the connection", { status: 413 }),
    1013: (reason) => reason === "" || reason === "no_space" ? new Failure(PASSING, "no_space", "the server has no room at the moment") : new Failure(PASSING, "unavailable", reason),
    4001: () => fatal("replaced", "the upload goes on somewhere else")
  };
  var Conversation = class {
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
      this.#ended = new Promise((resolve, reject) => this.#end = { resolve, reject });
      this.#ended.catch(() => {
      });
      socket.onmessage = ({ data }) => this.#hear(data);
      socket.onclose = ({ code, reason }) => this.#end.reject(CLOSED[code]?.(reason) ?? lost("the connection was lost"));
    }
    /** Resolves with the outcome, or with null when the connection is not to be trusted any more. */
    upload(fingerprint2) {
      this.#request({ Fingerprint: fingerprint2 });
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
        ...additions
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
      const { MsgType: type, MsgData: data } = parse2(text);
      if (Object.prototype.hasOwnProperty.call(this.#heard, type)) this.#heard[type](data ?? {});
    }
    #heard = {
      MsgUploadConf: (data) => this.#agree(data),
      MsgChunkAck: (data) => this.#acked(data),
      MsgPhase: ({ Phase }) => Phase === "processing" && this.#processing(),
      MsgAllDone: () => this.#end.resolve(FINISHED),
      MsgCancelAck: () => this.#end.resolve(cancelled(this.#cancel_reason ?? "")),
      MsgCancel: ({ Reason }) => this.#end.resolve(cancelled(Reason)),
      MsgError: ({ ErrorCode, Msg }) => this.#end.reject(new Failure(FATAL, error_name(ErrorCode), Msg || "the server gave the upload up"))
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
    #acked({ ChunkSize: ChunkSize2, Offset }) {
      const { tally } = this.#job;
      tally.chunk_acked(Offset ?? tally.acked + ChunkSize2);
      this.#measure(ChunkSize2);
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
      this.#reporter.processing(!this.#agreed?.Additions);
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
      return this.#open && this.#position < tally.total && tally.chunks_tx - tally.chunks_acked < ahead && // What is in the buffer can't be called back, so on a slow line little is put there.
      this.#socket.bufferedAmount < this.#chunk_size.within(BUFFER_ENOUGH);
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
  };
  function parse2(text) {
    try {
      return JSON.parse(text) ?? {};
    } catch {
      return {};
    }
  }

  // src/websocket.js
  var TRIES = 2;
  var CLOSED2 = 2e4;
  var OPENING = 1e4;
  var OPENING_AGAIN = 4e3;
  var PATIENT = 4;
  var WebSocketTransport = class {
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
      const fingerprint2 = await this.#job.identify();
      for (; ; ) {
        const outcome = await this.#converse(signal, (conversation) => conversation.upload(fingerprint2));
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
      const socket = await connect(this.#url, this.#time_to_open, signal).catch(
        (failure) => this.#not_opened(failure, signal)
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
      return this.#unopened >= TRIES && clock.now() - this.#opened_at >= CLOSED2;
    }
  };

  // src/delivery.js
  var TRANSPORTS = { http: HttpTransport, websocket: WebSocketTransport };
  var Delivery = class {
    #job;
    #page;
    #reporter;
    #wanted;
    #transport = null;
    #backoff = new Backoff();
    #gained = 0;
    #refusals = /* @__PURE__ */ new Map();
    #errand = new AbortController();
    /** `wanted` is "auto" or the name of the only transport to be used. */
    constructor(job, page, wanted, reporter) {
      this.#job = job;
      this.#page = page;
      this.#wanted = wanted;
      this.#reporter = { ...reporter, uploading: () => this.#reached(reporter) };
    }
    /** Name of the transport in use, "" before there is one. */
    get transport() {
      return this.#transport?.name ?? "";
    }
    /** Resolves with how the upload ended; rejects with the Failure that ended it. */
    upload() {
      return this.#persist((transport) => transport.run());
    }
    cancel(reason) {
      return this.#persist((transport) => transport.cancel(reason));
    }
    pause() {
      this.#errand.abort();
      this.#transport?.pause();
      this.#transport = null;
    }
    async #persist(act) {
      this.#errand.abort();
      this.#backoff.reset();
      const { signal } = this.#errand = new AbortController();
      for (; ; ) {
        this.#transport ??= this.#first_choice();
        this.#reporter.connecting();
        if (signal.aborted) return null;
        const began = clock.now();
        try {
          const outcome = await act(this.#transport);
          return signal.aborted ? null : outcome;
        } catch (thrown) {
          if (signal.aborted) return null;
          await this.#recover(as_failure(thrown), clock.now() - began, signal);
          if (signal.aborted) return null;
        }
      }
    }
    #reached(reporter) {
      this.#backoff.reached();
      reporter.uploading();
    }
    #first_choice() {
      return this.#make(this.#wanted === "auto" ? this.#page.first_choice : this.#wanted);
    }
    #make(name) {
      return new TRANSPORTS[name](this.#job, this.#page, this.#reporter);
    }
    /** Waits as long as is good after an attempt that took `spent` milliseconds. */
    async #recover(failure, spent, signal) {
      if (failure.kind === FATAL) throw failure;
      if (failure.kind === BLOCKED && this.#change_over(failure)) return;
      this.#reporter.waiting(failure);
      if (this.#job.tally.gained > this.#gained) this.#backoff.reset();
      this.#gained = this.#job.tally.gained;
      const ms = this.#backoff.next(failure, spent);
      await sleep(ms, { signal, online: failure.network });
    }
    /** True when there is another transport to go on with at once. */
    #change_over(failure) {
      const { name } = this.#transport;
      this.#refusals.set(name, failure);
      const next = other_transport(name);
      if (this.#wanted !== "auto" || this.#refusals.has(next)) return this.#no_way_left();
      if (failure.remember) this.#page.avoid(name);
      this.#transport.abandon();
      this.#transport = this.#make(next);
      return true;
    }
    /** A clear refusal is the end, unless bytes got through before: then it is the network, which changes. */
    #no_way_left() {
      const clear = [...this.#refusals.values()].find((failure) => failure.code > 0);
      if (clear && this.#job.tally.gained === 0) throw clear;
      this.#page.avoid_none();
      this.#refusals.clear();
      this.#transport.abandon();
      this.#transport = this.#first_choice();
      return false;
    }
  };

  // src/rate.js
  var WINDOW = 15e3;
  var LEAST = 1e3;
  var Rate = class {
    #samples = [];
    reset() {
      this.#samples = [];
    }
    add(bytes) {
      const time = clock.now();
      const last = this.#samples[this.#samples.length - 1];
      if (last && last.bytes === bytes) return;
      this.#samples.push({ time, bytes });
      while (this.#samples.length > 2 && this.#samples[1].time < time - WINDOW) this.#samples.shift();
    }
    /** Bytes per second; null while there is too little to tell. */
    get bytes_per_second() {
      if (this.#samples.length < 2) return null;
      const first = this.#samples[0];
      const last = this.#samples[this.#samples.length - 1];
      const elapsed = clock.now() - first.time;
      return elapsed < LEAST ? null : (last.bytes - first.bytes) * 1e3 / elapsed;
    }
  };

  // src/states.js
  var at_work = { active: true, can_pause: true, can_cancel: true };
  var STATES = Object.freeze({
    idle: { msg: "not started", can_cancel: true },
    connecting: { ...at_work, msg: "connecting" },
    uploading: { ...at_work, msg: "uploading", connected: true },
    waiting: { ...at_work, msg: "waiting" },
    paused: { msg: "paused", paused: true, can_cancel: true },
    processing: { active: true, can_cancel: true, msg: "processing", connected: true, phase: "processing" },
    handing_over: { active: true, msg: "processing", connected: true, phase: "processing" },
    cancelling: { msg: "cancelling", cancelling: true },
    finished: { msg: "finished", phase: "finished", callback: "onfinished" },
    cancelled: { msg: "cancelled", phase: "cancelled", callback: "oncancelled" },
    failed: { msg: "failed", phase: "failed", callback: "onerror" }
  });
  function waiting_message(failure) {
    if (failure.error === "no_space") return "waiting for space on the server";
    if (failure.error === "over_quota") return "waiting for its turn";
    return failure.network ? "connection lost, trying again" : "server not available, trying again";
  }

  // src/tally.js
  var Tally = class {
    acked = 0;
    chunks_tx = 0;
    chunks_acked = 0;
    /** Bytes that became safe while we watched. */
    gained = 0;
    #ahead = 0;
    #known = false;
    #changed;
    constructor(total, changed = () => {
    }) {
      this.total = total;
      this.#changed = changed;
    }
    get tx() {
      return Math.min(this.total, this.acked + this.#ahead);
    }
    /** Is all of it safe? An empty file is, once the server knows it. */
    get complete() {
      return this.#known && this.acked >= this.total;
    }
    get fraction() {
      if (this.total === 0) return this.complete ? 1 : 0;
      return this.acked / this.total;
    }
    /** A connection begins; the server has `received` bytes. */
    begin(received) {
      if (this.#known && received > this.acked) this.gained += received - this.acked;
      this.#known = true;
      Object.assign(this, { acked: received, chunks_tx: 0, chunks_acked: 0 });
      this.#ahead = 0;
      this.#changed();
    }
    /** The connection is gone, and with it what was on its way: whether that has arrived will be seen. */
    interrupt() {
      this.chunks_tx = this.chunks_acked;
      this.#ahead = 0;
    }
    chunk_sent() {
      this.chunks_tx += 1;
      this.#changed();
    }
    /** A chunk has to be sent again, so it doesn't count as sent. */
    chunk_returned() {
      this.chunks_tx -= 1;
      this.#changed();
    }
    chunk_acked(received) {
      this.chunks_acked += 1;
      this.received(received);
    }
    /** Answers of parallel lanes overtake each other, so the highest one counts. */
    received(received) {
      if (received > this.acked) this.gained += received - this.acked;
      this.acked = Math.max(this.acked, received);
      this.#changed();
    }
    /** `bytes` have left the browser and are not known to be safe yet. */
    set_ahead(bytes) {
      if (bytes === this.#ahead) return;
      this.#ahead = bytes;
      this.#changed();
    }
  };

  // src/uploader.js
  var TRANSPORTS2 = ["auto", "http", "websocket"];
  var RESUMABLE = ["replaced", "file_unreadable", "unauthorized", "forbidden", "forbidden_origin"];
  var LONGEST_REASON = 500;
  var GONE = ["cancelled", "expired", "unknown_upload"];
  var Upload = class {
    onprogress = null;
    onfinished = null;
    oncancelled = null;
    onerror = null;
    #job;
    #tally;
    #rate = new Rate();
    #delivery;
    #state = "idle";
    #note = "";
    #cancel_msg = "";
    #failure = null;
    constructor(upload_id, file, options, { page, base }) {
      check_arguments(upload_id, file, options);
      this.#tally = new Tally(file.size, () => this.#counted());
      this.#job = { id: upload_id, file, base, tally: this.#tally, identify: () => identify(file) };
      this.#delivery = new Delivery(this.#job, page, options.transport ?? "auto", this.#reporter);
    }
    get filename() {
      return this.#job.file.name ?? "";
    }
    get bytes_total() {
      return this.#tally.total;
    }
    get bytes_tx() {
      return this.#tally.tx;
    }
    get bytes_acked() {
      return this.#tally.acked;
    }
    get bytes_ahead() {
      return this.bytes_tx - this.bytes_acked;
    }
    get frac_complete() {
      return this.#tally.fraction;
    }
    get chunks_tx_now() {
      return this.#tally.chunks_tx;
    }
    get chunks_acked_now() {
      return this.#tally.chunks_acked;
    }
    get chunks_ahead() {
      return this.chunks_tx_now - this.chunks_acked_now;
    }
    get bytes_per_second() {
      return this.#state === "uploading" ? this.#rate.bytes_per_second : null;
    }
    get seconds_left() {
      const speed = this.bytes_per_second;
      return speed ? (this.bytes_total - this.bytes_acked) / speed : null;
    }
    get state_msg() {
      const processing = this.#row.active && this.#tally.complete;
      return this.#note || (processing ? STATES.processing : this.#row).msg;
    }
    get cancel_msg() {
      return this.#cancel_msg;
    }
    get error_code() {
      return this.#failure?.code ?? 0;
    }
    get error_msg() {
      return this.#failure?.message ?? "";
    }
    get phase() {
      return this.#row.phase ?? (this.#tally.complete ? "processing" : "uploading");
    }
    get transport() {
      return this.#delivery.transport;
    }
    get connected() {
      return this.#row.connected === true;
    }
    get finished() {
      return this.#state === "finished";
    }
    get paused() {
      return this.#row.paused === true;
    }
    get can_pause() {
      return this.#row.can_pause === true && !this.#tally.complete;
    }
    get cancelling() {
      return this.#row.cancelling === true;
    }
    get cancelled() {
      return this.#state === "cancelled";
    }
    get can_cancel() {
      return this.#row.can_cancel === true;
    }
    /** Begins, or goes on after a pause. */
    start() {
      if (this.#state !== "idle" && !this.paused) return;
      this.#remember();
      this.#become("connecting");
      this.#follow(() => this.#delivery.upload());
    }
    pause() {
      if (!this.can_pause) return;
      this.#delivery.pause();
      this.#become("paused");
    }
    cancel(reason = "") {
      if (!this.can_cancel) return;
      this.#cancel_msg = String(reason).slice(0, LONGEST_REASON);
      this.#become("cancelling");
      this.#follow(() => this.#delivery.cancel(this.#cancel_msg));
    }
    get #row() {
      return STATES[this.#state];
    }
    /** What the delivery may tell us; nothing once the person has decided otherwise. */
    #reporter = {
      // While the server works on the file, a new connection is no news.
      connecting: () => this.#row.phase || this.#report("connecting"),
      uploading: () => this.#report("uploading"),
      processing: (can_cancel) => this.#report(can_cancel ? "processing" : "handing_over"),
      waiting: (failure) => this.#report("waiting", waiting_message(failure))
    };
    #report(state, note = "") {
      if (!this.#row.active || state === this.#state && note === this.#note) return;
      this.#become(state, note);
    }
    #become(state, note = "") {
      this.#state = state;
      this.#note = note;
      this.#rate.reset();
      if (!this.connected) this.#tally.interrupt();
      if (state === "uploading") this.#rate.add(this.#tally.acked);
      this.#call("onprogress");
      const { callback } = STATES[state];
      if (callback) this.#call(callback);
    }
    #counted() {
      if (this.#state === "uploading") this.#rate.add(this.#tally.acked);
      this.#call("onprogress");
    }
    /** The page's mistakes are reported, but they don't stop the upload. */
    #call(name) {
      try {
        this[name]?.(this);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    }
    async #follow(errand) {
      try {
        const outcome = await errand();
        if (outcome) this.#conclude(outcome);
      } catch (thrown) {
        this.#fail(as_failure(thrown));
      }
    }
    #conclude({ state, reason = "" }) {
      if (state === "cancelled") this.#cancel_msg = reason || this.#cancel_msg;
      this.#forget();
      this.#become(state);
    }
    #fail(failure) {
      if (failure.error === "cancelled" || this.cancelling && GONE.includes(failure.error)) {
        return this.#conclude({ state: "cancelled", reason: this.#cancel_msg || failure.message });
      }
      if (this.cancelling && failure.error === "too_late") return this.#too_late();
      if (!RESUMABLE.includes(failure.error)) this.#forget();
      this.#failure = failure;
      this.#become("failed", failure.message);
    }
    /** The hand-over has begun, so we go on waiting for its end. */
    #too_late() {
      this.#cancel_msg = "";
      this.#become("handing_over", "too late to cancel, processing");
      this.#follow(() => this.#delivery.upload());
    }
    #remember() {
      const { id, identify: identify2 } = this.#job;
      identify2().then(
        (print) => this.#row.active && remember(print, id),
        () => {
        }
      );
    }
    #forget() {
      const { id, identify: identify2 } = this.#job;
      identify2().then(
        (print) => forget(print, id),
        () => {
        }
      );
    }
  };
  function identify(file) {
    return fingerprint(file).catch(() => {
      throw fatal("file_unreadable", "the file can't be read");
    });
  }
  function check_arguments(upload_id, file, options) {
    if (typeof upload_id !== "string" || upload_id === "") throw new TypeError("upload_id must be a ticket id");
    if (typeof file?.slice !== "function" || typeof file.size !== "number") throw new TypeError("file must be a File");
    const unknown = Object.keys(options).find((name) => name !== "transport");
    if (unknown) throw new TypeError(`unknown option: ${unknown}`);
    const { transport = "auto" } = options;
    if (!TRANSPORTS2.includes(transport)) throw new TypeError(`transport must be one of ${TRANSPORTS2.join(", ")}`);
  }

  // src/version.js
  var version = "0.1.0";

  // src/library.js
  function make_library(script_url, page_url) {
    const location = new Location(script_url, page_url);
    const page = new Page();
    function set_server_hostname(hostname) {
      location.set_hostname(hostname);
    }
    function Uploader(upload_id, file, options = {}) {
      return new Upload(upload_id, file, options ?? {}, { page, base: location.base });
    }
    Uploader.prototype = Upload.prototype;
    function previous(file) {
      return fingerprint(file).then(recall, () => null);
    }
    return Object.freeze({ set_server_hostname, Uploader, previous, errors, version });
  }

  // src/classic.js
  globalThis.incoming = make_library(document.currentScript?.src, globalThis.location?.href);
})();
