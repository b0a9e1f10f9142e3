#!/bin/bash
# Turns a tree into one bootable disk. Runs in a mount namespace of its own:
# killed at any moment it leaves no mount and no loop device behind.
# Arguments: TREE DISK WORKDIR
# WORKDIR/parts has one line a filesystem, in mount order:
#   MOUNT TYPE START-MiB SIZE-MiB UUID LABEL SUBVOLUMES(name:mount,… or -)
# WORKDIR/disk.sfdisk is the partition table, WORKDIR/core.cfg GRUB's start,
# WORKDIR/populate.sh (optional) runs inside the finished, mounted server.
set -eu
tree=$1 disk=$2 work=$3
mount --make-rprivate /
top=$work/mnt
mkdir -p "$top"

make_fs() { # TYPE IMAGE UUID LABEL
    case $1 in
    ext4) mke2fs -q -t ext4 -O ^metadata_csum_seed,^orphan_file -m 1 -U "$3" -L "$4" -F "$2" ;;
    xfs) mkfs.xfs -q -m uuid="$3" -L "$4" -f "$2" ;;
    btrfs) mkfs.btrfs -q -U "$3" -L "$4" -f "$2" ;;
    *) echo "unknown filesystem type $1" >&2; exit 1 ;;
    esac
}

mount_fs() { # MOUNT TYPE IMAGE SUBVOLUMES
    if [ "$4" = - ]; then
        mkdir -p "$top$1"
        mount -t "$2" -o loop "$3" "$top$1"
        return
    fi
    local plain=$work/plain pair
    mkdir -p "$plain"
    mount -t "$2" -o loop "$3" "$plain"
    for pair in ${4//,/ }; do
        btrfs -q subvolume create "$plain/${pair%%:*}"
        mkdir -p "$top${pair##*:}"
        mount --bind "$plain/${pair%%:*}" "$top${pair##*:}"
    done
}

while read -r mount type start size uuid label subvols; do
    img=$work/part-$start.img
    truncate -s "${size}M" "$img"
    make_fs "$type" "$img" "$uuid" "$label"
    mount_fs "$mount" "$type" "$img" "$subvols"
done < "$work/parts"

cp -a "$tree/." "$top/"
if [ -e "$work/populate.sh" ]; then
    mkdir -p "$top/recipe"
    cp "$work/populate.sh" "$work/env" "$top/recipe/"
    mount -t proc proc "$top/proc"
    mount -t tmpfs tmpfs "$top/dev"
    mknod -m 666 "$top/dev/null" c 1 3
    mknod -m 666 "$top/dev/zero" c 1 5
    mknod -m 666 "$top/dev/urandom" c 1 9
    chroot "$top" /bin/bash -eu -c '. /recipe/env; . /recipe/populate.sh'
    umount "$top/proc" "$top/dev"
    rm -rf "$top/recipe"
fi
umount -R "$top"
if mountpoint -q "$work/plain"; then umount "$work/plain"; fi

truncate -s "$(cat "$work/disk.size")M" "$disk"
sfdisk --quiet --no-reread --no-tell-kernel "$disk" < "$work/disk.sfdisk"
while read -r mount type start size uuid label subvols; do
    dd if="$work/part-$start.img" of="$disk" bs=1M seek="$start" conv=notrunc,sparse status=none
    rm "$work/part-$start.img"
done < "$work/parts"
