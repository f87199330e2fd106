#!/bin/sh
# The first process of a kernel of its own (user-mode Linux): an NFS server, and two machines that have its folder, each
# with a network, a name and so a client of its own. Then runs $SCRIPT, says how that ended, and powers off.
# Nothing is written outside of memory.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export TMPDIR=/run/tmp HOME=/run/tmp PYTHONDONTWRITEBYTECODE=1

start() {
  set -e
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t tmpfs -o mode=755 tmpfs /run
  mount -t tmpfs tmpfs /var/lib/nfs
  mkdir -p /run/tmp /run/export /run/one /run/two /run/shared /run/modules/lib /var/lib/nfs/v4recovery
  mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm
  ln -s /usr/lib/uml/modules /run/modules/lib/modules
  modprobe -d /run/modules -a veth bridge loop nfsd nfsv4

  ip link set lo up
  ip link add machines type bridge
  ip address add 10.0.0.1/24 dev machines
  ip link set machines up
  number=2
  for name in one two; do
    ip netns add $name
    ip link add $name type veth peer name eth0 netns $name
    ip link set $name master machines up
    ip -n $name address add 10.0.0.$number/24 dev eth0
    ip -n $name link set eth0 up
    number=3
  done

  truncate -s 256M /run/disk
  mkfs.ext4 -q -m 0 /run/disk
  mount -o loop /run/disk /run/export
  mkdir /run/export/small # soon full
  mount -t tmpfs -o size=4M tmpfs /run/export/small

  mount -t nfsd nfsd /proc/fs/nfsd
  touch /var/lib/nfs/etab /var/lib/nfs/rmtab
  echo 10 >/proc/fs/nfsd/nfsv4leasetime # the shortest; Debian's is 90
  echo 10 >/proc/fs/nfsd/nfsv4gracetime
  rpc.mountd --no-nfs-version 3 2>/dev/null
  exportfs -i -o rw,no_root_squash,no_subtree_check,fsid=0 '*:/run/export'
  exportfs -i -o rw,no_root_squash,no_subtree_check,fsid=1 '*:/run/export/small'
  rpc.nfsd --no-nfs-version 3 --no-udp 4
  echo Y >/proc/fs/nfsd/v4_end_grace # nobody was there before

  mount_in one 4.2
  mount_in two 4.1
}

mount_in() { # MACHINE VERSION
  nsenter --net=/run/netns/$1 unshare --uts sh -c \
    "hostname $1 && mount -t nfs -o vers=$2,hard 10.0.0.1:/ /run/$1"
}

if (start); then
  echo "machines are up after $(cut -d' ' -f1 /proc/uptime) s"
  export SHARED_FOLDERS=/run/one:/run/two SHARED_AT=/run/shared
  sh "$SCRIPT" </dev/null
  echo "ended with $?"
fi
echo o >/proc/sysrq-trigger
sleep 60
