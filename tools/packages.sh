#!/usr/bin/env bash
# usage: tools/packages.sh PACKAGE...
# Installs Debian packages that tests want, if this is a Debian and ours. It is no failure if it is not, or if
# one cannot be had: the tests that want it skip themselves, with a reason.
set -euo pipefail

if dpkg --status "$@" &>/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Not root on a Debian: whichever of these is missing is not installed: $*" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
timeout 300 apt-get update >/dev/null || true
for package in "$@"; do
  timeout 300 apt-get install --yes --no-install-recommends "$package" >/dev/null ||
    echo "$package cannot be installed: tests that want it will be skipped" >&2
done
