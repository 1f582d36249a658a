#!/bin/bash
# enter.sh ROOT FROM:TO... -- NAME=VALUE...
# Is the first process of new namespaces: mounts what a machine has into ROOT,
# and the folders FROM at TO, makes it the root, and runs newcomer.sh there with
# the given environment. It all goes with the namespaces.
set -euo pipefail
root=$1
shift
mount --bind "$root" "$root"
cd "$root"
while [ "$1" != -- ]; do
	mount --bind "${1%%:*}" ".${1#*:}"
	shift
done
shift
mount -o remount,bind,ro ./usr/local/go
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
[ -L dev/ptmx ] || mount --bind dev/pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 run run

# The control groups of this cgroup namespace in the place of the machine's.
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
	umount -R sys/fs/cgroup
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	# Controllers are for the children of a group without processes.
	mkdir sys/fs/cgroup/init
	echo 1 >sys/fs/cgroup/init/cgroup.procs
else
	hierarchies=$(awk '$3 ~ /^cgroup2?$/ && $2 ~ "^/sys/fs/cgroup/[^/]*$" {print $3, $2, $4}' /proc/mounts)
	umount -R sys/fs/cgroup
	mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
	while read -r type at options; do
		mkdir -p ".$at"
		case "$type" in
		cgroup) mount -t cgroup -o "${options#*relatime,}" cgroup ".$at" ;;
		cgroup2) mount -t cgroup2 cgroup2 ".$at" ;;
		esac
	done <<<"$hierarchies"
fi

hostname fresh
echo "127.0.1.1 fresh" >>etc/hosts
mkdir -p mnt/machine
pivot_root . mnt/machine
cd /
umount -l /mnt/machine
exec env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" \
	bash /root/edgefn/testbed/fresh/newcomer.sh
