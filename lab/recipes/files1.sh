# A file server. What it serves is made by files1.populate, on the filesystems
# themselves: flags, capabilities and odd names would not survive the way there.
sed -i 's|^#\?UsePAM.*|UsePAM yes|' /etc/ssh/sshd_config
groupadd -g 4000 crew
for n in 1 2 3; do
    useradd -m -u $((4000 + n)) -g crew -s /bin/bash "crew$n"
done
