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
# benches, too, and looks through them at each start (bench/startup.ts). What the client loads for a few
# commands only, or for quic:// servers, stays a file of its own. So does the daemon's worker. Both have the
# names by which the others look for them beside themselves. Minified, they are read faster at each start.
bundle=$tools/bundle
rm -rf "$bundle"
"$deno" bundle -q --minify --external ./lib/client/heavy.ts --external ./transports/quic.ts \
  -o "$bundle/client.js" client.ts
"$deno" bundle -q --minify -o "$bundle/transports/quic.ts" lib/client/transports/quic.ts
"$deno" bundle -q --minify -o "$bundle/lib/client/heavy.ts" lib/client/heavy.ts
"$deno" bundle -q --minify --output "$bundle/main.js" main.ts
"$deno" bundle -q --minify --output "$bundle/syscall_worker.ts" lib/daemon/engines/syscall_worker.ts
# Their times become part of the executables, which otherwise depend on the sources only.
find "$bundle" -type f -exec env TZ=UTC touch -t 200001010000 {} +

# No code cache: it is a file in /tmp that anybody on the machine may put there first, with other code.
compile() {
  "$deno" compile -q --no-check --no-prompt --no-code-cache ${platform:+--target "$platform"} "$@"
}
case $engine:${platform:-$(uname -s)} in
  auto:*[Ll]inux*)
    compile -P=daemon --include "$bundle/syscall_worker.ts" -o "$folder/mallocd" "$bundle/main.js" ;;
  *) compile -P=daemon-without-ffi -o "$folder/mallocd" "$bundle/main.js" ;;
esac
compile -P=client -o "$folder/mallocd-client" "$bundle/client.js"
