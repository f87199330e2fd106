/**
 * A back end that is not Python. It asks the Incoming!! server for tickets, and is told by an HTTP call when a
 * file is here. All that it has to remember is on disk: several of these may run side by side.
 */

import { randomBytes, timingSafeEqual } from "node:crypto";
import { createReadStream } from "node:fs";
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";

const HERE = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const HOST = process.env.HOST ?? "127.0.0.1";
const PORT = Number(process.env.PORT ?? 8000);
const DATA = path.resolve(process.env.NODE_APP_DATA ?? path.join(HERE, "data"));
/** Where browsers reach the Incoming!! server, and where this back end does. */
const PUBLIC = process.env.PUBLIC_INCOMING_HOST ?? "127.0.0.1:8080";
const INTERNAL = process.env.INTERNAL_INCOMING_HOST ?? "127.0.0.1:8081";
/** A ticket is the name of a folder here, so it must look like a ticket. */
const TICKET = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const LONGEST_FORM = 64 * 1024;

const FILES = path.join(DATA, "files");
await mkdir(FILES, { recursive: true });
const SECRET = await secret();

const HEADERS = {
  "Content-Security-Policy":
    `default-src 'none'; script-src 'self' http://${PUBLIC}; connect-src 'self' http://${PUBLIC} ws://${PUBLIC}; ` +
    "style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "Referrer-Policy": "same-origin",
  "X-Content-Type-Options": "nosniff",
};

const STATIC = {
  "/static/app.js": "text/javascript",
  "/static/style.css": "text/css",
};

/** Known only to this back end and the Incoming!! server. The same for all workers, and after a restart. */
async function secret() {
  const file = path.join(DATA, "secret");
  await writeFile(file, randomBytes(24).toString("base64url"), { flag: "wx", mode: 0o600 }).catch((error) => {
    if (error.code !== "EEXIST") throw error;
  });
  return readFile(file, "utf8");
}

async function page(_request, response) {
  const text = await readFile(path.join(HERE, "page.html"), "utf8");
  send(response, 200, "text/html; charset=utf-8", text.replaceAll("{{incoming}}", `http://${PUBLIC}`));
}

/** A ticket for one file, for our own page only. */
async function newTicket(request, response) {
  if ((request.headers["sec-fetch-site"] ?? "same-origin") !== "same-origin") return refuse(response, 403);
  const answer = await fetch(`http://${INTERNAL}/incoming/backend/new_upload`, {
    method: "POST",
    body: new URLSearchParams({
      signalFinishURL: `http://${HOST}:${PORT}/api/arrived`,
      removeFileWhenFinished: "false", // we move it
      backendSecret: SECRET,
    }),
  });
  if (!answer.ok) throw new Error(`Incoming!! gives no ticket: ${answer.status} ${await answer.text()}`);
  send(response, 200, "application/json", JSON.stringify({ ticket: await answer.text() }));
}

/** The Incoming!! server calls this when a file is here or will not come; again, if nobody has answered. */
async function arrived(request, response) {
  const form = new URLSearchParams(await body(request));
  const ticket = form.get("id") ?? "";
  if (!same(form.get("backendSecret") ?? "", SECRET) || !TICKET.test(ticket)) return refuse(response, 404);
  if (form.get("cancelled") !== "yes") await keep(ticket, form.get("filename"), form.get("filenameFromBrowser"));
  send(response, 200, "text/plain", "done");
}

/** Each file has a folder of its own, so no two names meet, and a call that comes twice finds the work done. */
async function keep(ticket, from, name) {
  const folder = path.join(FILES, ticket);
  await mkdir(folder, { recursive: true });
  if ((await readdir(folder)).some((entry) => !entry.endsWith(".part"))) return;
  await move(from, path.join(folder, safe(name)), path.join(folder, "copy.part"));
}

async function move(from, to, between) {
  try {
    await rename(from, to);
  } catch (error) {
    if (error.code !== "EXDEV") throw error;
    await copyFile(from, between); // another disk: whole or not at all
    await rename(between, to);
    await rm(from);
  }
}

/** A name from a stranger: one component, nothing that a shell, a terminal or another system trips over. */
function safe(name) {
  const last = (name ?? "").split(/[/\\]/).pop();
  const plain = last.replace(/[\p{C}<>:"|?*]/gu, "_").replace(/^[.\s]+|[.\s]+$/g, "");
  return Array.from(plain).slice(0, 60).join("") || "file";
}

async function files(_request, response) {
  const found = await Promise.all((await readdir(FILES)).map(fileIn));
  const newest = found.filter(Boolean).sort((one, other) => other.time - one.time);
  send(response, 200, "application/json", JSON.stringify(newest));
}

async function fileIn(ticket) {
  const folder = path.join(FILES, ticket);
  const name = (await readdir(folder)).find((entry) => !entry.endsWith(".part"));
  if (name === undefined) return null;
  const { size, mtimeMs } = await stat(path.join(folder, name));
  return { address: `files/${ticket}`, name, size, time: mtimeMs };
}

/** Always as a download: a page or a script that somebody sent must not run here. */
async function download(request, response) {
  const ticket = request.url.split("/").pop();
  const file = TICKET.test(ticket) && (await fileIn(ticket).catch(() => null));
  if (!file) return refuse(response, 404);
  response.writeHead(200, {
    ...HEADERS,
    "Content-Type": "application/octet-stream",
    "Content-Length": file.size,
    "Content-Disposition": `attachment; filename*=UTF-8''${encodeURIComponent(file.name)}`,
  });
  createReadStream(path.join(FILES, ticket, file.name)).on("error", () => response.destroy()).pipe(response);
}

async function fixed(request, response) {
  send(response, 200, STATIC[request.url], await readFile(path.join(HERE, request.url)));
}

function same(one, other) {
  const [left, right] = [Buffer.from(one), Buffer.from(other)];
  return left.length === right.length && timingSafeEqual(left, right);
}

async function body(request) {
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > LONGEST_FORM) throw new Error("the form is too long");
    parts.push(part);
  }
  return Buffer.concat(parts).toString();
}

function send(response, status, type, content) {
  response.writeHead(status, { ...HEADERS, "Content-Type": type, "Cache-Control": "no-cache" });
  response.end(content);
}

function refuse(response, status) {
  send(response, status, "text/plain", `${status}\n`);
}

function route(request) {
  const call = `${request.method} ${request.url}`;
  if (call === "GET /") return page;
  if (call === "POST /tickets") return newTicket;
  if (call === "POST /api/arrived") return arrived;
  if (call === "GET /files") return files;
  if (call.startsWith("GET /files/")) return download;
  if (request.method === "GET" && Object.hasOwn(STATIC, request.url)) return fixed;
  return async (_request, response) => refuse(response, 404);
}

const server = createServer((request, response) => {
  route(request)(request, response).catch((error) => {
    console.error(error.message);
    if (response.headersSent) response.destroy();
    else refuse(response, 500);
  });
});
server.listen(PORT, HOST, () => console.log(`back end: http://${HOST}:${PORT}/`));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
