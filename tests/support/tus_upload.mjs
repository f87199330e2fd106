// Uploads a file by tus-js-client, as a page would; stops in the middle first, and goes on.
// node tus_upload.mjs PROTOCOL TICKET-URL FILE CHUNK-SIZE
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const tus = createRequire(new URL("../javascript/package.json", import.meta.url))("tus-js-client");
const [protocol, endpoint, path, chunkSize] = process.argv.slice(2);
const data = readFileSync(path); // of a stream that is sent in chunks, tus-js-client 4.3.1 never says that it ends

function upload(uploadUrl, stopAt) {
  return new Promise((resolve, reject) => {
    const options = {
      protocol,
      endpoint,
      uploadUrl,
      chunkSize: Number(chunkSize),
      retryDelays: [0, 500],
      onError: reject,
      onSuccess: () => resolve(null),
      onChunkComplete: async (_, accepted) => {
        if (accepted >= stopAt && accepted < data.length) {
          await task.abort();
          resolve(task.url);
        }
      },
    };
    const task = new tus.Upload(data, options);
    task.start();
  });
}

const url = await upload(undefined, data.length / 3);
if (url !== null) await upload(url, Infinity);
console.log("uploaded", url);
