#!/bin/bash
# Makes the tree that every server of one Debian release starts from.
# Arguments: SUITE TREE PACKAGES [SOURCES-LINE]
set -eu
suite=$1 tree=$2 packages=$3 sources=${4:-}

rm -rf "$tree"
# The package lists stay in the tree so that the layers need no second update.
mmdebstrap --quiet --mode=root --variant=minbase --skip=cleanup/apt \
    --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='force-unsafe-io' \
    --aptopt='Apt::Install-Recommends "false"' \
    "$suite" "$tree" ${sources:+"$sources"}
rm -rf "$tree"/dev/* "$tree"/etc/ssh/ssh_host_* "$tree"/var/cache/apt/archives/*.deb "$tree"/var/cache/apt/*.bin
