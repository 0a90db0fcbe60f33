#!/bin/sh
# dist.sh DENO TOOLS FOLDER: packs both executables for each platform of `deno compile --target`, with the
# README, the licence and the manual pages in FOLDER/man, as FOLDER/mallocd-VERSION-PLATFORM.tar.gz, for
# Windows .zip, and the library for npm, and writes FOLDER/SHA256SUMS. A platform whose runtime stub cannot be had is left out.
# What is packed has all engines, whatever ENGINE the build for this machine has.
set -eu

deno=$1
tools=$2
folder=$(cd "$3" && pwd)
version=$(node -p 'require("./deno.json").version')

# The same commit makes the same archives: nothing in them depends on who packs them, where, and when.
export TZ=UTC LC_ALL=C
date=$(git log -1 --date=format-local:%Y%m%d%H%M.%S --format=%cd)
owner="--owner=0 --group=0 --numeric-owner"
tar --version | grep -q GNU || owner="--uid=0 --gid=0"

rm -f "$folder"/mallocd-*.tgz "$folder"/mallocd-*.tar.gz "$folder"/mallocd-*.zip "$folder/SHA256SUMS"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for platform in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu x86_64-apple-darwin \
  aarch64-apple-darwin x86_64-pc-windows-msvc; do
  if ! reason=$(tools/denort.sh "$deno" "$tools" "$platform" 2>&1 >/dev/null); then
    echo "Leaving out $platform: $reason" | head -n 1 >&2
    continue
  fi
  name=mallocd-$version-$platform
  echo "Packing $name" >&2
  mkdir "$work/$name"
  tools/build.sh "$deno" "$tools" "$work/$name" auto "$platform"
  cp README.md LICENSE "$folder"/man/* "$work/$name"
  chmod -R u=rwX,go=rX "$work/$name"
  touch -t "$date" "$work/$name"/* "$work/$name"
  cd "$work"
  # The shell sorts the files.
  case $platform in
    *windows*) zip -qX "$folder/$name.zip" "$name"/* ;;
    *) tar -cf - $owner "$name"/* | gzip -9n >"$folder/$name.tar.gz" ;;
  esac
  cd "$OLDPWD"
  rm -r "$work/$name"
done

set -- "$folder"/mallocd-"$version"-*
if [ ! -f "$1" ]; then
  echo "Cannot pack anything: no platform's runtime stub can be had" >&2
  exit 1
fi
echo "Packing mallocd-$version-npm" >&2
tools/npm.sh "$tools" "$folder"
cd "$folder"
set -- mallocd-"$version"-*
sha256sum "$@" >SHA256SUMS
cat SHA256SUMS
