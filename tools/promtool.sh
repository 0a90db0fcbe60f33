#!/bin/sh
# promtool.sh TOOLS: puts promtool, which checks metrics and rules, below TOOLS/promtool. It is taken out of
# Debian's package for Prometheus, which is not installed: that would start a service. It is no failure if it
# cannot be had: the tests that want it skip themselves, with a reason.
set -eu

mkdir -p "$1"
tools=$(cd "$1" && pwd)
if [ -x "$tools/promtool/usr/bin/promtool" ]; then exit 0; fi
if ! command -v apt-get >/dev/null; then
  echo "Not a Debian: promtool cannot be had" >&2
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
if timeout 300 apt-get -q download prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb out; then
  mkdir -p "$tools/promtool/usr/bin"
  mv out/usr/bin/promtool "$tools/promtool/usr/bin/promtool"
else
  echo "Debian's package prometheus cannot be had: tests that want promtool will be skipped" >&2
fi
