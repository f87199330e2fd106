import { FATAL, Failure, errors } from "./errors.js";

export const FINISHED = Object.freeze({ state: "finished" });
export const cancelled = (reason = "") => ({ state: "cancelled", reason });

/** How the upload ended, if a status says so, or null; throws a Failure where it ended badly. */
export function outcome_of({ phase, state, reason }) {
  if (phase === "finished") return FINISHED;
  if (phase === "cancelled") return cancelled(reason);
  if (phase !== "failed") return null;
  const name = state in errors ? state : "internal";
  throw new Failure(FATAL, name, reason || `the upload is ${state}`);
}

const HANDING_OVER = ["handing_over", "waiting_for_app"];

/** Can a status' upload still be cancelled? */
export const cancellable = ({ state }) => !HANDING_OVER.includes(state);
