// Uploads a file with tus-js-client in node, as its documentation says. One argument: the options as JSON, which are
// those of tus.Upload and:
//   path           of the file
//   abortAfter     bytes after which it aborts, and begins anew at the upload's URL as another process would
//   terminate      give the upload up when it aborts
// Prints what came of it as JSON.
import fs from "node:fs";
import * as tus from "tus-js-client";

const { path, abortAfter, terminate, ...options } = JSON.parse(process.argv[2]);
const seen = { statuses: [], resumedFrom: null };

const input = () => fs.createReadStream(path);

function run(more, act = () => {}) {
  return new Promise((resolve) => {
    const upload = new tus.Upload(input(), {
      retryDelays: [0, 100, 500, 1000],
      ...options,
      ...more,
      onAfterResponse: (request, response) => {
        seen.statuses.push(`${request.getMethod()} ${response.getStatus()}`);
      },
      onProgress: (sent) => {
        if (more?.uploadUrl && seen.resumedFrom === null) seen.resumedFrom = sent;
        act(upload, sent, resolve);
      },
      onSuccess: () => resolve({ ...seen, url: upload.url }),
      onError: (error) => resolve({ ...seen, error: String(error) }),
    });
    upload.start();
  });
}

let begun = false;
const abort = (upload, sent, resolve) => {
  if (begun || !abortAfter || sent < abortAfter) return;
  begun = true;
  upload.abort(Boolean(terminate)).then(() => resolve({ ...seen, url: upload.url, aborted: true }));
};

let result = await run({}, abort);
if (result.aborted && !terminate) result = await run({ uploadUrl: result.url });
console.log(JSON.stringify(result));
process.exit(0);
