import { clock } from "./clock.js";
import { lost } from "./errors.js";

const NOWHERE = "no WebSocket connection can be made";

/** Resolves with an open WebSocket; rejects when none can be had, at the latest after `ms` milliseconds. */
export function connect(url, ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(lost("stopped"));
    const socket = make(url);
    if (!socket) return reject(lost(NOWHERE));
    const give_up = (message) => () => {
      forget();
      socket.close();
      reject(lost(message));
    };
    const stop = give_up("stopped");
    const call_off = clock.after(ms, give_up("the WebSocket connection didn't open in time"));
    const forget = () => {
      call_off();
      signal.removeEventListener("abort", stop);
      socket.onopen = socket.onclose = null;
    };
    signal.addEventListener("abort", stop);
    socket.onclose = give_up(NOWHERE);
    socket.onopen = () => {
      forget();
      resolve(socket);
    };
  });
}

/** A browser throws where a page may not use a WebSocket, as from https to ws. */
function make(url) {
  try {
    return new WebSocket(url);
  } catch {
    return null;
  }
}
