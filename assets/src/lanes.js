/**
 * A few lanes shared by all uploads of the page. A free lane goes to the upload
 * that holds the fewest, and among those to the one that has waited longest.
 */
export class Lanes {
  #free;
  #held = new Map();
  #queue = [];

  constructor(count) {
    this.#free = count;
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
    return this.#queue.reduce((best, next) => (this.#count(next) < this.#count(best) ? next : best));
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
    const count = this.#count({ owner }) + by;
    if (count > 0) this.#held.set(owner, count);
    else this.#held.delete(owner);
  }
}
