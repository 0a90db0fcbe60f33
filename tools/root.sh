#!/bin/sh
# root.sh FOLDER ROOT: makes ROOT, the root of a container in which FOLDER/mallocd runs: the executable, the
# libraries that it is linked with, and nothing else but mount points.
set -eu

# The kernel's own (vdso) has no path.
libraries=$(ldd "$1/mallocd" | sed -n 's/^.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1/p')
umask 022
# /proc the runtime must have.
mkdir -p "$2/proc" "$2/dev"
install -D "$1/mallocd" "$2/usr/bin/mallocd"
for library in $libraries; do install -D -m 755 "$library" "$2$library"; done
