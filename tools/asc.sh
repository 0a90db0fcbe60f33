#!/bin/sh
# asc.sh TOOLS: puts AssemblyScript's compiler, from npm, below TOOLS/assemblyscript. It is no failure if it cannot
# be had: the test that wants it skips itself, with a reason.
set -eu

version=0.28.20
if [ -x "$1/assemblyscript/node_modules/.bin/asc" ]; then exit 0; fi
npm install --loglevel=error --no-audit --no-fund --ignore-scripts --fetch-retries=1 \
  --prefix "$1/assemblyscript" "assemblyscript@$version" >/dev/null ||
  echo "AssemblyScript cannot be had from npm: the test that wants asc will be skipped" >&2
