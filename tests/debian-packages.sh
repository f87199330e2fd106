#!/bin/bash
# Installs the programs that the tests use and that are missing, where it may (root, or sudo without a password).
# Nothing that is installed here starts by itself. Without the rights it says what is missing and goes on: the
# tests that need it are then left out, and say so.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"

missing=()
want() { command -v "$1" >/dev/null || missing+=("$2"); }
want chromium chromium
want firefox-esr firefox-esr
want WebKitWebDriver webkit2gtk-driver
want Xvfb xvfb
want node nodejs
want npm npm
want nginx nginx-light
want curl curl
want openssl openssl
want redis-server redis-server
want redis-sentinel redis-sentinel
want ceph-mon ceph-mon
want ceph-osd ceph-osd
want radosgw radosgw
want ceph-mds ceph-mds
want ceph-fuse ceph-fuse
want linux.uml user-mode-linux
want exportfs nfs-kernel-server
want mount.nfs nfs-common
want modprobe kmod
want ip iproute2
want strace strace
want mkfs.ext4 e2fsprogs
want mkfs.xfs xfsprogs
want mount mount
# Without a font Chromium draws no text, and a screenshot shows nothing.
[ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] || missing+=(fonts-dejavu-core)

if [ ${#missing[@]} -eq 0 ]; then
  echo "all here"
  exit 0
fi

give_up() {
  echo "missing: ${missing[*]} ($1)" >&2
  echo "to install them:  apt-get install --no-install-recommends ${missing[*]}" >&2
  [ "${CI:-}" = true ] && exit 1
  exit 0
}

command -v apt-get >/dev/null || give_up "this is no Debian"
root=()
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || give_up "you are neither root nor may you use sudo without a password"
  root=(sudo -n)
fi

# invoke-rc.d asks this file before it starts a service; 101 means no.
policy=/usr/sbin/policy-rc.d
kept="$policy.before-incoming-tests"
[ -e "$kept" ] || { [ -e "$policy" ] && "${root[@]}" mv "$policy" "$kept"; } || true
put_back() {
  "${root[@]}" rm -f "$policy"
  [ ! -e "$kept" ] || "${root[@]}" mv "$kept" "$policy"
}
trap put_back EXIT
printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
"${root[@]}" chmod 755 "$policy"

echo "installing ${missing[*]}"
install() {
  "${root[@]}" apt-get update -qq &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}
install || give_up "apt-get did not succeed"
