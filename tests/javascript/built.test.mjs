import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";
import { errors } from "../../assets/src/errors.js";
import { version } from "../../assets/src/version.js";
import { file_of, world } from "./support/world.mjs";

const ASSETS = new URL("../../assets/", import.meta.url);
const text = (name) => readFileSync(new URL(name, ASSETS), "utf8");
const API = ["Uploader", "errors", "previous", "set_server_hostname", "version"];

function load_classic(globals) {
  const context = vm.createContext({ URL, ...globals });
  const before = Object.keys(context);
  vm.runInContext(text("incoming.js"), context);
  return { context, made: Object.keys(context).filter((name) => !before.includes(name)) };
}

test("the classic script makes one global, and knows where it came from", () => {
  const document = { currentScript: { src: "https://files.example/up/0.1/frontend/incoming.js" } };
  const { context, made } = load_classic({ document, location: { href: "https://app.example/" }, AbortController });
  assert.deepEqual(made, ["incoming"]);
  assert.deepEqual(Object.keys(context.incoming).sort(), API);
  assert.ok(context.incoming.Uploader("t1", file_of(1)));
});

test("the module exports the same, by name and as default", async () => {
  const module = await import(new URL("incoming.mjs", ASSETS));
  assert.deepEqual(Object.keys(module).sort(), [...API, "default"].sort());
  assert.equal(module.default.Uploader, module.Uploader);
});

test("the version is the package's", () => {
  assert.equal(version, JSON.parse(text("package.json")).version);
});

test("the type declarations name everything that can be seen, and nothing else", () => {
  const { incoming } = world();
  const declared = text("incoming.d.ts");
  const body = /export interface Uploader \{([\s\S]*?)\n\}/.exec(declared)[1];
  const named = [...body.matchAll(/^ {2}(?:readonly )?(\w+)[:(]/gm)].map(([, name]) => name);
  const u = incoming.Uploader("t1", file_of(1));
  const seen = [...Object.keys(u), ...Object.getOwnPropertyNames(Object.getPrototypeOf(u))];
  assert.deepEqual(named.sort(), seen.filter((name) => name !== "constructor").sort());
  const listed = [.../export type ErrorName =([\s\S]*?);/.exec(declared)[1].matchAll(/"(\w+)"/g)].map(
    ([, name]) => name,
  );
  assert.deepEqual(listed, Object.keys(errors));
});

test("a strict content security policy has nothing to object to", () => {
  for (const name of ["incoming.js", "incoming.mjs"]) {
    assert.doesNotMatch(text(name), /\beval\(|new Function\(|createObjectURL|new Worker\(|\balert\(/, name);
  }
});
