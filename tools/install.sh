#!/bin/sh
# install.sh install|uninstall FOLDER: puts what `make build` has made in FOLDER below $DESTDIR$PREFIX, or
# removes it from there. Both may hold any character but a newline; they come by the environment, which
# no shell and no make reads again.
set -eu

verb=$1
folder=$2
root=${DESTDIR-}$PREFIX

unit() {
  # systemd runs no program whose path has quotes or backslashes in it, but a shell does, for which it
  # is an argument. There systemd reads quotes, backslashes, % and $.
  program=$PREFIX/bin/mallocd
  case $program in
    *[!A-Za-z0-9/._+-]*)
      program=$(printf '%s' "$program" | sed 's/[\\"]/\\&/g; s/[%$]/&&/g')
      program="/bin/sh -c 'exec \"\$\$0\"' \"$program\"" ;;
  esac
  # It tells systemd that it is ready by libc: a daemon without FFI cannot.
  type=notify
  if [ "$(cat "$folder/.engine")" = datagram ]; then type=exec; fi
  PROGRAM=$program TYPE=$type awk '
    /^ExecStart=/ { $0 = "ExecStart=" ENVIRON["PROGRAM"] }
    /^Type=/ { $0 = "Type=" ENVIRON["TYPE"] }
    ENVIRON["TYPE"] == "exec" && (/^# It is killed, and/ || /^WatchdogSec=/) { next }
    { print }' \
    contrib/mallocd.service
}

# put MODE SOURCE TARGET
put() {
  if [ "$verb" = uninstall ]; then
    rm -f "$root/$3"
  else
    install -d "$root/${3%/*}"
    install -m "$1" "$2" "$root/$3"
  fi
}

for name in mallocd mallocd-client; do
  put 755 "$folder/$name" bin/$name
  put 644 "$folder/completions/bash/$name" share/bash-completion/completions/$name
  put 644 "$folder/completions/zsh/_$name" share/zsh/site-functions/_$name
  put 644 "$folder/completions/fish/$name.fish" share/fish/vendor_completions.d/$name.fish
done
put 644 "$folder/man/mallocd-client.1" share/man/man1/mallocd-client.1
put 644 "$folder/man/mallocd.8" share/man/man8/mallocd.8
unit | put 644 /dev/stdin lib/systemd/system/mallocd.service
