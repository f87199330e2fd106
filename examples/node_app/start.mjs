/** Starts both: the Incoming!! server, and the back end that uses it. Options: --host HOST --port PORT */

import { spawn } from "node:child_process";
import path from "node:path";
import { parseArgs } from "node:util";

const HERE = path.dirname(new URL(import.meta.url).pathname);
const { values } = parseArgs({
  options: {
    host: { type: "string", default: process.env.HOST ?? "127.0.0.1" },
    port: { type: "string", default: process.env.PORT ?? "8000" },
  },
});
const port = Number(values.port);
const data = process.env.NODE_APP_DATA ?? path.join(HERE, "data");
const publicHost = `${values.host}:${port + 80}`;
const internalHost = `127.0.0.1:${port + 81}`;

const environment = {
  ...process.env,
  HOST: values.host,
  PORT: values.port,
  NODE_APP_DATA: data,
  PUBLIC_INCOMING_HOST: publicHost,
  INTERNAL_INCOMING_HOST: internalHost,
};

const server = [
  "--bind", publicHost,
  "--backend-bind", internalHost,
  "--storage", path.join(data, "incoming"),
  "--workers", "2",
  "--allow-origin", `http://${values.host}:${port}`,
];
// PYTHON names the Python that has incoming-wsgi, where the command incoming-server is not on the path.
const python = process.env.PYTHON;
const command = python ? [python, "-m", "incoming_wsgi", ...server] : ["incoming-server", ...server];

const children = [];
let stopping = false;

function start([program, ...args], env = process.env) {
  const child = spawn(program, args, { stdio: "inherit", env });
  child.on("exit", (code) => stop(code ?? 1));
  child.on("error", (error) => {
    console.error(`${error.message}. Is incoming-wsgi installed, with its extra "server"?`);
    stop(1);
  });
  children.push(child);
}

/** One without the other is of no use. */
function stop(code) {
  if (stopping) return;
  stopping = true;
  process.exitCode = code;
  for (const child of children) child.kill("SIGTERM");
}

/** The page loads its library from the Incoming!! server, so that one has to be there first. */
async function ready() {
  while (!stopping) {
    const answer = await fetch(`http://${publicHost}/incoming/ready`).catch(() => null);
    if (answer?.ok) return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => stop(0));
start(command);
if (await ready()) start([process.execPath, path.join(HERE, "server.mjs")], environment);
