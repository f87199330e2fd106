import { ChunkSize } from "./chunk_size.js";
import { Lanes } from "./lanes.js";

/** Which transport `auto` tries first. */
export const PREFERENCE = Object.freeze(["http", "websocket"]);

/** What the uploads of one page share: connections, and what was learned about the network. */
export class Page {
  lanes = new Lanes(4);
  polls = new Lanes(1);
  chunk_size = new ChunkSize();
  #long_poller = null;
  #blocked = new Set();

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
}

export const other_transport = (name) => PREFERENCE.find((other) => other !== name);
