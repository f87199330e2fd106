// @tus/server as its documentation sets it up; WORKERS processes share the port.
import cluster from "node:cluster";
import { rename } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";

const { FILES, UPLOADS, PORT, WORKERS } = process.env;

function serve() {
  const tus = new Server({
    path: "/files",
    datastore: new FileStore({ directory: UPLOADS }),
    async onUploadFinish(request, upload) {
      await rename(join(UPLOADS, upload.id), join(FILES, upload.id));
      return {};
    },
  });
  const server = createServer(tus.handle.bind(tus));
  server.requestTimeout = 0;
  server.listen(Number(PORT), "127.0.0.1");
}

if (WORKERS === "1") serve();
else if (cluster.isPrimary) for (let i = 0; i < Number(WORKERS); i += 1) cluster.fork();
else serve();
