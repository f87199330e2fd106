/** Reads a file a few pieces ahead of where they are needed, so that the line need not wait for the disk. */
export class ReadAhead {
  #file;
  #position;
  #pieces = [];

  constructor(file, position) {
    this.#file = file;
    this.#position = position;
  }

  /** Sees to it that `count` pieces have been read or are being read; new ones have `size` bytes. */
  prepare(count, size) {
    while (this.#pieces.length < count && this.#position < this.#file.size) this.#read(size);
  }

  /** A promise of the next piece, an ArrayBuffer. */
  take() {
    return this.#pieces.shift();
  }

  #read(size) {
    const end = Math.min(this.#file.size, this.#position + size);
    const piece = this.#file.slice(this.#position, end).arrayBuffer();
    piece.catch(() => {}); // whoever takes it hears of it
    this.#pieces.push(piece);
    this.#position = end;
  }
}
