#!/bin/bash
# Is assets/incoming.js what its sources say, and do its own tests pass?
set -euo pipefail
cd "$(dirname "$0")/../assets"

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  echo "NOT RUN: the tests of the browser library need node and npm" >&2
  [ "${CI:-}" != true ]
  exit
fi
if [ ! -d node_modules/esbuild ] || [ package.json -nt node_modules/.package-lock.json ]; then
  echo "installing what builds the library (the library itself depends on nothing)"
  npm install --silent --no-audit --no-fund
fi
npm run --silent check
npm test --silent
