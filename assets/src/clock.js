// Time and chance in one place, so that a test can hold both still.

export const clock = {
  /** Milliseconds on a clock that never goes back. */
  now: () => performance.now(),
  /** Calls `f` after `ms` milliseconds; returns a function that calls it off. */
  after(ms, f) {
    const timer = setTimeout(f, ms);
    return () => clearTimeout(timer);
  },
  random: () => Math.random(),
};

function listen(target, event, f) {
  target?.addEventListener?.(event, f);
  return () => target?.removeEventListener?.(event, f);
}

/**
 * Resolves after `ms` milliseconds, or earlier when `signal` aborts, or, if
 * `online` is true, when the browser says that it has a network again.
 */
export function sleep(ms, { signal, online = false } = {}) {
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
