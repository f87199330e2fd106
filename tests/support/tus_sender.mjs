// Uploads a file by tus-js-client as a patient page would: it comes again until the app has the file.
// node tus_sender.mjs CREATION-URL STATUS-URL FILE CHUNK-SIZE PAUSE   (bytes, milliseconds)
// Prints the bytes that were acknowledged, a line each time, and at last: finished, forgotten, or what went wrong.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const tus = createRequire(new URL("../javascript/package.json", import.meta.url))("tus-js-client");
const [endpoint, status, path, chunkSize, pause] = process.argv.slice(2);
const data = readFileSync(path); // of a stream that is sent in chunks, tus-js-client 4.3.1 never says that it ends

const AGAIN = 500; // milliseconds
const FORGOTTEN = [404, 410];

/** Why it gave up; nothing where it did not. */
function upload() {
  return new Promise((resolve) => {
    const options = {
      endpoint,
      chunkSize: Number(chunkSize),
      retryDelays: Array(1000).fill(AGAIN),
      onBeforeRequest: () => sleep(Number(pause)),
      onChunkComplete: (_, accepted) => console.log(accepted),
      onError: (error) => resolve({ status: error.originalResponse?.getStatus(), error }),
      onSuccess: () => resolve(null),
    };
    new tus.Upload(data, options).start();
  });
}

async function phase() {
  while (true) {
    try {
      const answer = await fetch(status);
      if (FORGOTTEN.includes(answer.status)) return "failed";
      if (answer.ok) {
        const { phase } = await answer.json();
        if (!["uploading", "processing"].includes(phase)) return phase;
      }
    } catch {
      // nobody is there just now
    }
    await sleep(AGAIN);
  }
}

const trouble = await upload();
const isForgotten = trouble ? FORGOTTEN.includes(trouble.status) : (await phase()) === "failed";
console.log(isForgotten ? "forgotten" : trouble ? `gave up: ${trouble.error}` : "finished");
process.exit(0);
