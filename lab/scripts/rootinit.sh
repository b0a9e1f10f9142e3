#!/bin/bash
# Process 1 of a light server, after light.sh. Does what is needed of init:
# early mounts, sshd, the server's services (start.sh), reaping.
cd /
umount -l /run/lab/old
rmdir /run/lab/old
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
unset SSH_CONNECTION SSH_CLIENT TMPDIR HOME

# tmpfs lines of fstab are the only ones left to mount.
while read -r dev mp type opts rest; do
    if [ "$type" = tmpfs ]; then mount -t tmpfs -o "$opts" "$dev" "$mp"; fi
done < /etc/fstab
systemd-tmpfiles --create --prefix=/run 2> /dev/null
mkdir -p /run/lock /run/sshd
chmod 1777 /run/lock
: > /run/utmp

background() { # NAME COMMAND…
    local name=$1
    shift
    setsid "$@" & # a group of its own, so that it can be ended whole
    echo $! > "/run/$name.pid"
}
writer() { # NAME COMMAND…: a service that only changes files
    if [ ! -e /run/lab/quiet ]; then background "$@"; fi
}

/usr/sbin/sshd
. /run/lab/start.sh
writer churn /usr/local/sbin/churn 0.5
touch /run/lab/started

# Reap whatever is re-parented here, for ever.
while :; do
    wait -n || sleep 1
    sleep 0.2
done
