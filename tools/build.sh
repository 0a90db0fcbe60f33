#!/bin/sh
# build.sh DENO TOOLS FOLDER ENGINE [PLATFORM]: makes mallocd and mallocd-client in FOLDER, for this machine
# or for another platform of `deno compile --target`. If ENGINE is datagram and not auto, the daemon gets
# no permission for FFI, and so has no syscall engine. That engine is for Linux only; elsewhere the daemon
# never gets the permission.
set -eu

deno=$1
tools=$2
folder=$3
engine=$4
platform=${5:-}

stub=$(tools/denort.sh "$deno" "$tools" $platform)
if [ -n "$stub" ]; then export DENORT_BIN="$stub"; else unset DENORT_BIN; fi

# They are bundled first: `deno compile` alone embeds every npm package that deno.lock names, those of the
# benches, too, and looks through them at each start (bench/startup.ts). What the sources load by import()
# stays a file of its own, and so does what two of the files have in common: to load one more takes 0.05 ms,
# and to read 100 KB that are not needed 2.5 ms. Therefore they are minified, too. All are JavaScript by
# name, or they would be stored three times: as they are, translated, and as a source map.
bundle=$tools/bundle
rm -rf "$bundle"
bundle() { "$deno" bundle -q --minify --code-splitting --outdir "$@"; }
worker=lib/daemon/engines/syscall_worker
bundle "$bundle/daemon" main.ts $worker.ts
bundle "$bundle/client" client.ts
# Their times become part of the executables, which otherwise depend on the sources only.
find "$bundle" -type f -exec env TZ=UTC touch -t 200001010000 {} +

# No code cache: it is a file in /tmp that anybody on the machine may put there first, with other code.
compile() {
  "$deno" compile -q --no-check --no-prompt --no-code-cache ${platform:+--target "$platform"} "$@"
}
# The daemon has no Sparkplug, the first of V8's three compilers: a start had to wait for its thread, and
# what serves is soon the others' (docs/architecture.md).
daemon() { compile --v8-flags=--no-sparkplug -o "$folder/mallocd" "$@" "$bundle/daemon/main.js"; }
case $engine:${platform:-$(uname -s)} in
  auto:*[Ll]inux*) daemon -P=daemon --include "$bundle/daemon/$worker.js" ;;
  *) daemon -P=daemon-without-ffi ;;
esac
# The client moves what is longer than memory: no more garbage than this waits for the collector.
compile --v8-flags=--max-semi-space-size=4 -P=client -o "$folder/mallocd-client" "$bundle/client/client.js"
