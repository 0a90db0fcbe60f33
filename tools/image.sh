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
tools/root.sh "$folder" "$work/root"

rm -rf "$layout"
umoci init --layout "$layout"
umoci new --image "$layout:$version"
umoci insert --rootless --image "$layout:$version" "$work/root" /
umoci config --image "$layout:$version" --config.user 65532:65532 \
  --config.entrypoint /usr/bin/mallocd --config.exposedports 8081/udp
umoci gc --layout "$layout"
echo "$layout:$version"
