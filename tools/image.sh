#!/bin/sh
# image.sh FOLDER: makes FOLDER/image, an OCI layout that holds FOLDER/mallocd, the libraries that it is
# linked with, and nothing else, with umoci.
set -eu

command -v umoci >/dev/null || {
  echo "Cannot make an image: no umoci. Try: apt-get install umoci" >&2
  exit 1
}
folder=$(cd "$1" && pwd)
version=$(node -p 'require("./deno.json").version')
layout=$folder/image
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# The kernel's own (vdso) has no path.
libraries=$(ldd "$folder/mallocd" | sed -n 's/^.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1/p')
# Mount points: /proc the runtime must have.
mkdir "$work/root" "$work/root/proc" "$work/root/dev"
install -D "$folder/mallocd" "$work/root/usr/bin/mallocd"
for library in $libraries; do install -D -m 755 "$library" "$work/root$library"; done

rm -rf "$layout"
umoci init --layout "$layout"
umoci new --image "$layout:$version"
umoci insert --rootless --image "$layout:$version" "$work/root" /
umoci config --image "$layout:$version" --config.user 65532:65532 \
  --config.entrypoint /usr/bin/mallocd --config.exposedports 8081/udp
umoci gc --layout "$layout"
echo "$layout:$version"
