# Sourced inside every server's tree before its own recipe, with these set:
#   NAME ADDRESS INTERFACE ROUTES(space-separated) GATEWAY LABKEY(public)
#   BOOT_UUID BOOT_PREFIX ROOT_UUID ROOT_FLAGS HOSTS(newline-separated)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

echo "$NAME" > /etc/hostname
printf '127.0.0.1\tlocalhost\n%s\n' "$HOSTS" > /etc/hosts
rm -f /etc/resolv.conf /var/lib/dbus/machine-id
ln -s /etc/machine-id /var/lib/dbus/machine-id 2>/dev/null || true

ssh-keygen -q -A
install -d -m 700 /root/.ssh
echo "$LABKEY" > /root/.ssh/authorized_keys
chmod 600 /root/.ssh/authorized_keys

cp /recipe/files/fstab /etc/fstab
if [ -e /recipe/files/interfaces ]; then
    cp /recipe/files/interfaces /etc/network/interfaces
fi

cp /recipe/files/churn /usr/local/sbin/churn
chmod 755 /usr/local/sbin/churn
install_program() { # NAME, text on standard input
    cat > "/usr/local/sbin/$1"
    chmod 755 "/usr/local/sbin/$1"
}
# The user with sudo that the lab's key opens instead of root.
sudo_user() { # NAME
    useradd -m -s /bin/bash "$1"
    echo "$1 ALL=(ALL) NOPASSWD: ALL" > "/etc/sudoers.d/$1"
    chmod 440 "/etc/sudoers.d/$1"
    install -d -m 700 -o "$1" -g "$1" "/home/$1/.ssh"
    install -m 600 -o "$1" -g "$1" /root/.ssh/authorized_keys "/home/$1/.ssh/authorized_keys"
    rm /root/.ssh/authorized_keys
    echo 'PermitRootLogin no' > /etc/ssh/sshd_config.d/root.conf
}
install_unit() { # NAME COMMAND [EXTRA-UNIT-LINES]
    cat > "/etc/systemd/system/$1.service" <<UNIT
[Unit]
Description=$1 of $NAME
After=network.target ${3:-}

[Service]
ExecStart=$2
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
UNIT
    systemctl enable -q "$1.service"
}
install_unit churn /usr/local/sbin/churn

# A site without a way out: nothing to download, and no LVM to scrub at boot.
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service e2scrub_all.timer; do
    if [ -e "/usr/lib/systemd/system/$unit" ] || [ -e "/lib/systemd/system/$unit" ]; then
        systemctl disable -q "$unit"
    fi
done

# Emulated on a busy machine, a start may take more than the usual 90 seconds.
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\nDefaultTimeoutStartSec=180s\n' > /etc/systemd/system.conf.d/slow.conf

# Emulated, tests of ciphers, random addresses and a chatty console cost a start a
# third of its time.
arguments="console=tty0 console=ttyS0,115200 norandmaps cryptomgr.notests loglevel=6"
kernel=$(cd /boot && ls vmlinuz-* | sort -V | tail -n 1)
version=${kernel#vmlinuz-}
mkdir -p /boot/grub
cat > /etc/default/grub <<GRUB
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="$arguments"
GRUB
cat > /boot/grub/grub.cfg <<GRUB
set default=0
set timeout=0
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class os {
	search --no-floppy --fs-uuid --set=root $BOOT_UUID
	linux	$BOOT_PREFIX/vmlinuz-$version root=UUID=$ROOT_UUID ro $ROOT_FLAGS $arguments
	initrd	$BOOT_PREFIX/initrd.img-$version
}
GRUB
