/** The byte ranges [start, end) that are still to be sent. */
export class Gaps {
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
}

/** The parts of [start, end) that lie in one of the ranges. */
export function overlap(ranges, [start, end]) {
  return ranges.map(([from, to]) => [Math.max(from, start), Math.min(to, end)]).filter(([from, to]) => from < to);
}
