#!/bin/bash
# Makes one server's tree: the base, its packages, its recipe run inside.
# Arguments: BASE TREE SUITE PACKAGES WORKDIR [SOURCES-LINE]
# WORKDIR holds env (shell assignments), common.sh, recipe.sh and files/.
set -eu
base=$1 tree=$2 suite=$3 packages=$4 work=$5 sources=${6:-}

rm -rf "$tree"
cp -a "$base" "$tree"
mkdir "$tree/recipe"
cp -a "$work/env" "$work/common.sh" "$work/recipe.sh" "$work/files" "$tree/recipe/"
mmdebstrap --quiet --mode=root --variant=custom --skip=check/empty,update,cleanup/apt \
    ${packages:+--include="$packages"} \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='force-unsafe-io' \
    --aptopt='Apt::Install-Recommends "false"' \
    --customize-hook='chroot "$1" /bin/bash -eu -c ". /recipe/env; . /recipe/common.sh; . /recipe/recipe.sh"' \
    "$suite" "$tree" ${sources:+"$sources"}
rm -rf "$tree/recipe" "$tree"/var/lib/apt/lists/*_* "$tree"/dev/* \
    "$tree"/var/cache/apt/archives/*.deb "$tree"/var/cache/apt/*.bin
