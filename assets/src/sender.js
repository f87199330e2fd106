import { share } from "./chunk_size.js";
import { clock } from "./clock.js";
import { FATAL, Failure, PASSING, fatal, lost } from "./errors.js";
import { Gaps, overlap } from "./gaps.js";

/** When one lane fails, how long the others may take to end what they have begun. */
const GRACE = 1000;
const MOST_LANES = 4;

/**
 * Sends what is missing, over several lanes, until nothing is left or something
 * goes wrong. Good for one attempt.
 */
export class Sender {
  #job;
  #page;
  #resource;
  #session;
  #watch;
  #stop = new AbortController();
  #flights = new Map();
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
    // The first chunk of a page goes alone: four at once could choke a slow line before its speed is known.
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
    // Lanes that ended together would all wait for their answers together, so they begin out of step.
    for (let part = (lane + 1) / this.#crew; this.#has_work && this.#is_of_use(lane); part = 1) {
      if (!(await this.#in_lane(() => this.#send_one(part)))) return;
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
    const status = await this.#resource
      .put(this.#session, this.#job.file, range, { signal: this.#stop.signal, on_progress })
      .finally(() => this.#land(range));
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
    this.#give_up((await this.#unreadable(range, failure)) ?? failure, failure.kind === FATAL ? 0 : GRACE);
  }

  /** A file that changed on the disk looks like a network error, unless one reads it. */
  async #unreadable([start], failure) {
    if (!failure.network || this.#failure) return null;
    return this.#job.file
      .slice(start, start + 1)
      .arrayBuffer()
      .then(
        () => null,
        () => fatal("file_unreadable", "the file can't be read any more"),
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
    // The browser counts what it wrote, which may go on after we have given the range back.
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
}

function newer(a, b) {
  if (b.version !== a.version) return b.version > a.version ? b : a;
  return b.received >= a.received ? b : a;
}
