#!/bin/bash
# Makes one server's disk: filesystems, the base tree in them, the server's own
# packages, its recipe run inside. Runs in mount and pid namespaces of its own:
# killed at any moment it leaves no mount, loop device or process behind.
# Arguments: BASE-TAR SUITE PACKAGES DISK WORKDIR [SOURCES-LINE]
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

tar -C "$top" --numeric-owner --xattrs --xattrs-include='*' -xpf "$base"
mkdir "$top/recipe"
cp -a "$work/env" "$work/common.sh" "$work/recipe.sh" "$work/files" "$top/recipe/"
# Not by --include, which unpacks twice, once past what dpkg is told to leave out.
install='env --chdir="$1" APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -qq --yes -oDPkg::Chroot-Directory="$1" install '"${packages//,/ }"
mmdebstrap --quiet --mode=root --variant=custom --skip=check/empty,update,cleanup/apt \
    ${packages:+--customize-hook="$install"} \
    --aptopt='Apt::Install-Recommends "false"' \
    --customize-hook='chroot "$1" /bin/bash -eu -c ". /recipe/env; . /recipe/common.sh; . /recipe/recipe.sh"' \
    "$suite" "$top" ${sources:+"$sources"}
rm -rf "$top"/var/lib/apt/lists/*_* "$top"/dev/* "$top"/var/cache/apt/archives/*.deb "$top"/var/cache/apt/*.bin
if [ -e "$work/populate.sh" ]; then populate; fi
rm -rf "$top/recipe"
# A server that has started before has an identity, and nothing left of what a first
# start does (machine-id(5), systemd-update-done(8)).
tr -d - < /proc/sys/kernel/random/uuid > "$top/etc/machine-id"
chmod 444 "$top/etc/machine-id"
for dir in etc var; do
    echo '# This file was created by systemd-update-done.' > "$top/$dir/.updated"
    touch -r "$top/usr" "$top/$dir/.updated"
done
cp "$top"/etc/ssh/ssh_host_*_key.pub "$work/hostkeys/"
umount -R "$top"
if mountpoint -q "$work/plain"; then umount "$work/plain"; fi

truncate -s "$(cat "$work/disk.size")M" "$disk"
sfdisk --quiet --no-reread --no-tell-kernel "$disk" < "$work/disk.sfdisk"
while read -r mount type start size uuid label subvols; do
    dd if="$images/$start" of="$disk" bs=1M seek="$start" conv=notrunc,sparse status=none
done < "$work/parts"
