#!/bin/bash
# Installs the servers that `make bench` compares with, into .bench: none of them is a requirement of the package.
# nginx comes from Debian (tests/debian-packages.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

need() { command -v "$1" >/dev/null || { echo "the bench needs $1; on Debian:  apt install $2" >&2; exit 1; }; }
need gcc gcc
need node nodejs
need npm npm
PATH="$PATH:/usr/sbin" need nginx nginx-light
need chromium chromium

installed=.bench/.installed
if [ "$installed" -nt bench/install.sh ]; then
  echo "all here"
  exit
fi
mkdir -p .bench/node
python3 -m venv .bench/venv
.bench/venv/bin/python -m pip --disable-pip-version-check --quiet install \
  'tuspyserver>=4' 'uvicorn[standard]' 'tuswsgi>=0.5' 'gunicorn[gevent]' 'py-spy>=0.4'
echo '{ "private": true, "type": "module" }' >.bench/node/package.json
npm install --prefix .bench/node --silent --no-audit --no-fund '@tus/server@2' '@tus/file-store@2'
touch "$installed"
