#!/bin/sh
# deb.sh FOLDER: packs what `make build` has made in FOLDER as FOLDER/mallocd_VERSION_ARCH.deb and
# FOLDER/mallocd-client_VERSION_ARCH.deb, with dpkg-deb. It needs no root: the files become root's there.
set -eu

folder=$(cd "$1" && pwd)
version=$(node -p 'require("./deno.json").version')
arch=$(dpkg --print-architecture)
# Whoever packs it answers for it: as for Debian's own tools, else as for git.
maintainer="${DEBFULLNAME:-$(git log -1 --format=%an)} <${DEBEMAIL:-$(git log -1 --format=%ae)}>"
# The same commit makes the same packages.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# control PACKAGE SUMMARY DESCRIPTION [FIELD...]
control() {
  package=$1 summary=$2 description=$3
  shift 3
  mkdir -p "$work/$package/DEBIAN"
  {
    echo "Package: $package"
    echo "Version: $version"
    echo "Architecture: $arch"
    echo "Maintainer: $maintainer"
    echo "Installed-Size: $(du -sk --exclude=DEBIAN "$work/$package" | cut -f1)"
    for field in "$@"; do echo "$field"; done
    echo "Section: net"
    echo "Priority: optional"
    echo "Description: $summary"
    echo "$description" | fold -s -w 76 | sed 's/^/ /; s/ *$//'
  } >"$work/$package/DEBIAN/control"
}

# What every package of Debian has, beside its own files.
documents() {
  docs=$work/$1/usr/share/doc/$1
  mkdir -p "$docs" "$work/$1/usr/share/lintian/overrides"
  {
    echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    echo
    echo "Files: *"
    echo "Copyright: $(sed -n 's/^Copyright (c) //p' LICENSE)"
    echo "License: Expat"
    sed '1,/^Copyright/d; s/^$/./; s/^/ /' LICENSE | sed '1{/^ \.$/d}'
  } >"$docs/copyright"
  {
    echo "$1 ($version) unstable; urgency=medium"
    echo
    echo "  * CHANGELOG.md tells what is new."
    echo
    echo " -- $maintainer  $(LC_ALL=C date -uRd "@$SOURCE_DATE_EPOCH")"
  } | gzip -9n >"$docs/changelog.gz"
  # It is part of Deno's runtime.
  echo "$1: embedded-library *lcms2*" >"$work/$1/usr/share/lintian/overrides/$1"
}

for package in mallocd mallocd-client; do
  DESTDIR=$work/$package PREFIX=/usr tools/install.sh install "$folder"
done
# Each leaves out what is the other's.
find "$work/mallocd" -type f -name '*mallocd-client*' -delete
find "$work/mallocd-client" -type f ! -name '*mallocd-client*' -delete
find "$work" -path '*/share/man/*' -type f -exec gzip -9n {} +
# Debian 12 looks for units there.
mkdir -p "$work/mallocd/lib"
mv "$work/mallocd/usr/lib/systemd" "$work/mallocd/lib/systemd"
install -Dm 644 contrib/debian/mallocd.default "$work/mallocd/etc/default/mallocd"
for package in mallocd mallocd-client; do documents $package; done
find "$work" -depth -type d -empty -delete

control mallocd "malloc(3) for anyone on a socket" \
  "A daemon that lets clients on a UDP socket allocate, free, read and write memory. All clients share one heap, and there is no authentication: it listens on loopback unless it is told otherwise." \
  "Depends: libc6 (>= 2.27), libgcc-s1, passwd" "Suggests: mallocd-client"
install -m 755 contrib/debian/postinst contrib/debian/prerm contrib/debian/postrm "$work/mallocd/DEBIAN"
echo /etc/default/mallocd >"$work/mallocd/DEBIAN/conffiles"
control mallocd-client "client of mallocd, malloc(3) over a socket" \
  "The command line of mallocd: allocate, free, read, write and dump memory of a daemon, look around in a shell, and measure it." \
  "Depends: libc6 (>= 2.27), libgcc-s1"

for package in mallocd mallocd-client; do
  (cd "$work/$package" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z |
    xargs -0 md5sum >DEBIAN/md5sums)
  find "$work/$package" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz -z1 --build "$work/$package" "$folder/${package}_${version}_$arch.deb" >/dev/null
  echo "$folder/${package}_${version}_$arch.deb"
done
