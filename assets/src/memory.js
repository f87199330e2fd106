// Which ticket a file was being uploaded under, so that a page that was
// reloaded can ask its back end whether to go on with it. Storage may be full,
// forbidden or absent; then there is simply nothing to remember.

const PREFIX = "incoming:";
const KEEP = 14 * 24 * 3600 * 1000;

export function recall(fingerprint) {
  return attempt((storage) => read(storage, PREFIX + fingerprint)?.id ?? null);
}

export function remember(fingerprint, id) {
  attempt((storage) => {
    drop_old(storage);
    storage.setItem(PREFIX + fingerprint, JSON.stringify({ id, at: Date.now() }));
  });
}

/** Another ticket of the same file stays. */
export function forget(fingerprint, id) {
  attempt((storage) => {
    if (read(storage, PREFIX + fingerprint)?.id === id) storage.removeItem(PREFIX + fingerprint);
  });
}

function attempt(f) {
  try {
    return f(globalThis.localStorage) ?? null;
  } catch {
    return null;
  }
}

function read(storage, key) {
  try {
    const { id, at } = JSON.parse(storage.getItem(key));
    return typeof id === "string" && Date.now() - at < KEEP ? { id } : null;
  } catch {
    return null;
  }
}

function drop_old(storage) {
  const keys = Array.from({ length: storage.length }, (_, i) => storage.key(i));
  const ours = keys.filter((key) => key?.startsWith(PREFIX));
  ours.filter((key) => !read(storage, key)).forEach((key) => storage.removeItem(key));
}
