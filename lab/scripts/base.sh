#!/bin/bash
# Makes the tree that every server of one Debian release starts from, as a tar.
# Runs in mount and pid namespaces of its own.
# Arguments: SUITE TAR PACKAGES [SOURCES-LINE]
set -eu
suite=$1 tar=$2 packages=$3 sources=${4:-}
mount --make-rprivate /
tree=${tar%/*}/tree
rm -rf "$tree"
mkdir -p "$tree"
# In memory where there is plenty: a build is thousands of small writes.
available=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
if [ "$available" -gt 6000 ]; then mount -t tmpfs -o size=75% tmpfs "$tree"; fi

# What dpkg leaves out of all servers, as on many a small one: documentation, and
# PostgreSQL's compiler of queries (170 MB). As a file in the tree, for filters given
# to mmdebstrap slow down its first step tenfold.
cat > "$tree.hook" <<'HOOK'
config=$1/etc/dpkg/dpkg.cfg.d/lab
for dir in doc man info locale lintian bug doc-base; do
    rm -rf "$1/usr/share/$dir"/*
    echo "path-exclude=/usr/share/$dir/*"
done > "$config"
for path in 'x86_64-linux-gnu/libLLVM*' 'x86_64-linux-gnu/libz3*' 'postgresql/*/lib/bitcode/*' 'postgresql/*/lib/llvmjit*'; do
    echo "path-exclude=/usr/lib/$path"
done >> "$config"
echo force-unsafe-io >> "$config"
HOOK

# The package lists stay in the tree so that the layers need no second update. The
# initramfs is made once, at the end. A merged /usr is there from the start where the
# release has it: converting takes all of Perl.
INITRD=No mmdebstrap --quiet --mode=root --variant=minbase --skip=cleanup/apt \
    --include="$packages" \
    --hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr \
    --extract-hook="bash -eu $tree.hook \"\$1\"" \
    --customize-hook='chroot "$1" update-initramfs -c -k all' \
    --aptopt='Apt::Install-Recommends "false"' \
    "$suite" "$tree" ${sources:+"$sources"}
rm -rf "$tree"/dev/* "$tree"/etc/ssh/ssh_host_* "$tree"/var/cache/apt/archives/*.deb "$tree"/var/cache/apt/*.bin
tar -C "$tree" --numeric-owner --xattrs --xattrs-include='*' -cf "$tar" .
