#!/bin/bash
# The first process of a light server: started in new pid, mount, uts and ipc
# namespaces and in the server's own network namespace. It mounts the server's
# filesystems and hands over to rootinit.sh inside them. When it dies, all
# processes, mounts and loop devices of the server go with it.
# Arguments: WORKDIR DISK NAME
# WORKDIR/mounts has one line a filesystem: MOUNT TYPE OFFSET SIZE UUID SUBVOLUME(or -) IMAGE
# It waits for a line on its standard input first, so that it is on record
# before it does anything: end of file means that nobody recorded it.
set -eu
read -r go || exit 1
exec < /dev/null
work=$1 disk=$2 name=$3
mount --make-rprivate /
hostname "$name"
root=$work/root
mkdir -p "$root"

while read -r mp type offset size uuid subvol image; do
    opts=loop,offset=$offset,sizelimit=$size
    if [ "$subvol" != - ]; then
        # The first subvolume attaches the loop device, the others share it.
        if [ -n "${btrfs_dev:-}" ]; then opts=defaults; image=$btrfs_dev; fi
        opts=$opts,subvol=$subvol
    fi
    # Another lab on this machine may have the same disk mounted.
    if [ "$type" = xfs ]; then opts=$opts,nouuid; fi
    mkdir -p "$root$mp"
    mount -t "$type" -o "$opts" "$image" "$root$mp"
    dev=$(findmnt -no SOURCE --target "$root$mp" | sed 's/\[.*//')
    if [ "$subvol" != - ]; then btrfs_dev=$dev; fi
    echo "$dev $uuid" >> "$work/devices.new"
done < "$work/mounts"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/disk/by-uuid"
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o nosuid,nodev tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
while read -r node major minor; do
    mknod -m 666 "$root/dev/$node" c "$major" "$minor"
done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
NODES
mknod -m 600 "$root/dev/console" c 5 1
while read -r dev uuid; do
    node=${dev##*/}
    [ -e "$root/dev/$node" ] || mknod -m 660 "$root/dev/$node" b 7 "${node#loop}"
    ln -sf "../../$node" "$root/dev/disk/by-uuid/$uuid"
done < "$work/devices.new"
rm "$work/devices.new"

mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mkdir "$root/run/lab" "$root/run/lab/old"
cp "$work/rootinit.sh" "$work/start.sh" "$root/run/lab/"
[ ! -e "$work/quiet" ] || touch "$root/run/lab/quiet"
cd "$root"
pivot_root . run/lab/old
exec chroot . /bin/bash /run/lab/rootinit.sh "$name" > /run/lab/init.log 2>&1
