// The one private state of an upload, and what follows from it. `active` means
// that the delivery is at work and may report; `callback` is fired once, after
// onprogress, when the state is entered.

const at_work = { active: true, can_pause: true, can_cancel: true };

export const STATES = Object.freeze({
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
  failed: { msg: "failed", phase: "failed", callback: "onerror" },
});

/** What to tell the person while the upload waits to be tried again. */
export function waiting_message(failure) {
  if (failure.error === "no_space") return "waiting for space on the server";
  if (failure.error === "over_quota") return "waiting for its turn";
  return failure.network ? "connection lost, trying again" : "server not available, trying again";
}
