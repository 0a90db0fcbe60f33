#!/bin/sh
# bun.sh TOOLS: puts Bun, on which a test runs the client's library, below TOOLS/bun. It comes from npm
# as the bare executable. It is no failure if it cannot be had: the test then skips itself, with a reason.
set -eu

bun=1.4.5
case $(uname -m) in
  aarch64) name=bun-linux-aarch64 ;;
  *) name=bun-linux-x64-baseline ;;
esac
if [ "$("$1/bun/bun" --version 2>/dev/null)" = "$bun" ]; then exit 0; fi
if npm install --loglevel=error --no-audit --no-fund --ignore-scripts --fetch-retries=1 \
  --prefix "$1/bun" "@oven/$name@$bun" >/dev/null; then
  ln -sf "node_modules/@oven/$name/bin/bun" "$1/bun/bun"
else
  echo "Bun cannot be had from npm: the test that wants it will be skipped" >&2
fi
