#!/bin/sh
# Prepares the machine for `make lab`: installs the Debian packages that are missing (and asks the index only when one
# is), and lets no flood of one test lose the packets of another.
set -eu

packages="chromium fish haproxy iproute2 irtt libnginx-mod-stream mandoc netcat-openbsd nftables nginx-light procps
prometheus python3-scapy systemd zsh"

if [ "$(id -u)" != 0 ]; then
    echo "make lab: needs root: it installs Debian packages and makes network namespaces" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "make lab: needs Debian or a relative of it: there is no apt-get here" >&2
    exit 1
fi

# The packets of all namespaces wait in one queue of each processor, which holds 1000 by default.
queue=/proc/sys/net/core/netdev_max_backlog
if [ "$(cat "$queue")" -lt 30000 ] && ! echo 30000 >"$queue"; then
    echo "make lab: cannot write to $queue: a flood of one test may lose packets of another" >&2
fi

missing=
for package in $packages; do
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "make lab: installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086  # a list of words
apt-get -qq install --yes --no-install-recommends -o Dpkg::Use-Pty=0 $missing >/dev/null
