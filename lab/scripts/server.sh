#!/bin/bash
# Makes one server's disk: filesystems, the base tree in them, the server's own
# packages, its recipe run inside. Runs in mount and pid namespaces of its own:
# killed at any moment it leaves no mount, loop device or process behind.
# Arguments: BASE SUITE PACKAGES DISK WORKDIR [SOURCES-LINE]
# WORKDIR holds
#   parts         one line a filesystem, in mount order:
#                 MOUNT TYPE START-MiB SIZE-MiB UUID LABEL SUBVOLUMES(name:mount,… or -)
#   disk.size     MiB, and disk.sfdisk, the partition table
#   env           shell assignments for the recipe
#   common.sh recipe.sh files/          run inside the tree
#   populate.sh   optional, run inside when all else is in place
# and receives hostkeys/, the public ssh host keys.
set -eu
base=$1 suite=$2 packages=$3 disk=$4 work=$5 sources=${6:-}
mount --make-rprivate /
top=$work/mnt images=$work/images
mkdir -p "$top" "$images" "$work/hostkeys"
# In memory where there is plenty: a build is thousands of small writes.
available=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
if [ "$available" -gt 6000 ]; then mount -t tmpfs -o size=75% tmpfs "$images"; fi

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

populate() {
    cp "$work/populate.sh" "$top/recipe/"
    mount -t proc proc "$top/proc"
    mount -t tmpfs tmpfs "$top/dev"
    mknod -m 666 "$top/dev/null" c 1 3
    mknod -m 666 "$top/dev/zero" c 1 5
    mknod -m 666 "$top/dev/urandom" c 1 9
    chroot "$top" /bin/bash -eu -c '. /recipe/env; . /recipe/populate.sh'
    umount "$top/proc" "$top/dev"
}

while read -r mount type start size uuid label subvols; do
    img=$images/$start
    truncate -s "${size}M" "$img"
    make_fs "$type" "$img" "$uuid" "$label"
    mount_fs "$mount" "$type" "$img" "$subvols"
done < "$work/parts"

cp -a "$base/." "$top/"
mkdir "$top/recipe"
cp -a "$work/env" "$work/common.sh" "$work/recipe.sh" "$work/files" "$top/recipe/"
mmdebstrap --quiet --mode=root --variant=custom --skip=check/empty,update,cleanup/apt \
    ${packages:+--include="$packages"} \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='force-unsafe-io' \
    --aptopt='Apt::Install-Recommends "false"' \
    --customize-hook='chroot "$1" /bin/bash -eu -c ". /recipe/env; . /recipe/common.sh; . /recipe/recipe.sh"' \
    "$suite" "$top" ${sources:+"$sources"}
rm -rf "$top"/var/lib/apt/lists/*_* "$top"/dev/* "$top"/var/cache/apt/archives/*.deb "$top"/var/cache/apt/*.bin
if [ -e "$work/populate.sh" ]; then populate; fi
rm -rf "$top/recipe"
cp "$top"/etc/ssh/ssh_host_*_key.pub "$work/hostkeys/"
umount -R "$top"
if mountpoint -q "$work/plain"; then umount "$work/plain"; fi

truncate -s "$(cat "$work/disk.size")M" "$disk"
sfdisk --quiet --no-reread --no-tell-kernel "$disk" < "$work/disk.sfdisk"
while read -r mount type start size uuid label subvols; do
    dd if="$images/$start" of="$disk" bs=1M seek="$start" conv=notrunc,sparse status=none
done < "$work/parts"
