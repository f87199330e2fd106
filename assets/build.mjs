// Builds incoming.js and incoming.mjs from src/. With --check it writes nothing
// and fails when the files in this folder are not what it would have written.

import { readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const here = new URL(".", import.meta.url);
const { version } = JSON.parse(await readFile(new URL("package.json", here)));
const banner = `// Incoming!! ${version}, the browser library. Built from assets/src by "npm run build"; change it there.`;

const FILES = {
  "incoming.js": { entry: "src/classic.js", format: "iife" },
  "incoming.mjs": { entry: "src/module.js", format: "esm" },
};

async function built({ entry, format }) {
  const { outputFiles } = await build({
    absWorkingDir: new URL(".", import.meta.url).pathname,
    entryPoints: [entry],
    bundle: true,
    format,
    write: false,
    charset: "utf8",
    target: ["chrome92", "edge92", "firefox91", "safari15"],
    banner: { js: banner },
  });
  return outputFiles[0].text;
}

async function is_stale(name, text) {
  const old = await readFile(new URL(name, here), "utf8").catch(() => null);
  return old !== text;
}

for (const [name, how] of Object.entries(FILES)) {
  const text = await built(how);
  if (!process.argv.includes("--check")) await writeFile(new URL(name, here), text);
  else if (await is_stale(name, text)) {
    console.error(`assets/${name} is not what its sources make it: run "npm run build" in assets/`);
    process.exitCode = 1;
  }
}
