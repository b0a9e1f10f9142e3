#!/bin/bash
# Becomes QEMU once it is on record; end of file means that nobody recorded it.
# Arguments: the QEMU command.
read -r go || exit 1
exec "$@" < /dev/null
