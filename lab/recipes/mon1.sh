# Polls the others over HTTP and ssh's port. Uses systemd-networkd; the key
# opens the user ops, who has sudo and whose shell talks before it works.
sudo_user ops
mkdir -p /boot/efi
sed -i '1i echo "mon1 watches. Today is $(date +%A)."' /home/ops/.bashrc
: > /etc/network/interfaces
cat > /etc/systemd/network/10-lan.network <<CONF
[Match]
MACAddress=$MAC

[Network]
Address=$ADDRESS/24
LinkLocalAddressing=no

[Route]
Destination=$ROUTE
Gateway=$GATEWAY
CONF
systemctl enable -q systemd-networkd
install_program poll <<'PROGRAM'
#!/bin/sh
# Asks every server how it is, every five seconds.
while :; do
    for url in http://web1/ http://app1:8080/health http://app1:8080/orders telnet://mail1:25 telnet://dns1:53; do
        answer=$(curl -s -m 4 -o /dev/null -w '%{http_code} %{time_total}' "$url" < /dev/null)
        echo "$(date -u +%FT%TZ) $url $answer" >> /var/log/poll.log
    done
    sleep 5
done
PROGRAM
install_unit poll /usr/local/sbin/poll
