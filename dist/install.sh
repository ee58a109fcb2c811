#!/bin/sh
# Installs the binary, its manual pages, completions and systemd units.
#
#   dist/install.sh BINARY [PREFIX]      PREFIX is /usr/local if not given; DESTDIR is respected.
#
# Nothing is started. Afterwards: systemctl daemon-reload && systemctl enable --now trunkline
set -eu

usage() {
    echo "usage: dist/install.sh BINARY [PREFIX]" >&2
    exit 2
}

[ $# -ge 1 ] && [ $# -le 2 ] && [ -x "$1" ] || usage
binary=$1
prefix=${2:-/usr/local}
root=${DESTDIR:-}$prefix
here=$(dirname "$0")

install -D -m 0755 "$binary" "$root/bin/trunkline"

install -d "$root/share/man/man1"
"$binary" man "$root/share/man/man1"

install -d "$root/share/bash-completion/completions" "$root/share/zsh/site-functions" \
    "$root/share/fish/vendor_completions.d"
"$binary" completions bash >"$root/share/bash-completion/completions/trunkline"
"$binary" completions zsh >"$root/share/zsh/site-functions/_trunkline"
"$binary" completions fish >"$root/share/fish/vendor_completions.d/trunkline.fish"

# systemd reads units from PREFIX/lib only for /usr and /usr/local.
for unit in trunkline.service trunkline-keeper.service trunkline-docker.socket; do
    install -d "$root/lib/systemd/system"
    sed "s|/usr/local/bin/trunkline|$prefix/bin/trunkline|" "$here/$unit" >"$root/lib/systemd/system/$unit"
done
