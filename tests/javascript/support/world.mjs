// A fresh page with a fresh server for each test.

import { File } from "node:buffer";
import { make_library } from "../../../assets/src/library.js";
import { install } from "./browser.mjs";
import { reset_clock } from "./clock.mjs";
import { Server } from "./server.mjs";

export { network, come_online, serve_sockets } from "./browser.mjs";
export { after, now, pass, settle, until } from "./clock.mjs";
export { refuse } from "./server.mjs";

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const SCRIPT = "https://files.example/incoming/frontend/incoming.js";

export function world() {
  reset_clock();
  const server = new Server();
  install(server);
  return { server, upload: server.ticket(), incoming: make_library(SCRIPT, "https://app.example/page") };
}

export function file_of(size, name = "film.mov", seed = 1) {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = (i * 31 + (i >> 8) * 7 + seed) & 255;
  const file = new File([bytes], name, { lastModified: 1_700_000_000_000 });
  file.content = bytes;
  return file;
}

/** Writes down what the page is told, in order. */
export function listen(uploader) {
  const heard = [];
  for (const name of ["onprogress", "onfinished", "oncancelled", "onerror"]) {
    uploader[name] = (who) =>
      heard.push({ name, who, msg: who.state_msg, transport: who.transport, phase: who.phase, acked: who.bytes_acked });
  }
  return heard;
}

export const same = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)) === 0;
export const ended = (uploader) => () => uploader.finished || uploader.cancelled || uploader.error_code > 0;
