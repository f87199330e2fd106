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
if [ ! -d ../tests/javascript/node_modules/uppy ] || \
  [ ../tests/javascript/package.json -nt ../tests/javascript/node_modules/.package-lock.json ]; then
  echo "installing the clients of tus that the tests let upload"
  npm install --prefix ../tests/javascript --silent --no-audit --no-fund --no-package-lock
fi
if [ ! -d ../examples/flask_app/node_modules/uppy ]; then
  echo "installing Uppy for the Flask example"
  npm install --prefix ../examples/flask_app --silent --no-audit --no-fund --no-package-lock
fi
npm run --silent check
npm test --silent
