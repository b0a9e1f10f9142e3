# Postfix with 20,000 messages in ten Maildirs, on LVM. It greets before login.
cat > /etc/issue.net <<'TEXT'
*******************************************************
*  mail1: property of Harbour & Sons, Miami.          *
*  Don't log in unless it's "your" job. $HOME `uname` *
*******************************************************
TEXT
echo 'Banner /etc/issue.net' > /etc/ssh/sshd_config.d/banner.conf
postconf -e home_mailbox=Maildir/ mydestination=mail1,localhost inet_protocols=ipv4 smtputf8_enable=no \
    smtp_tls_CApath= smtp_tls_security_level=none # else each start copies all certificates into the chroot
for n in $(seq 0 9); do
    useradd -m -s /usr/sbin/nologin "clerk$n"
done
cat > /tmp/fill.pl <<'PERL'
# Fills the Maildirs: 2,000 messages each, of 400 bytes to some kilobytes.
use strict;
my @words = qw(berth cargo tide manifest crane pilot harbour invoice customs
    container vessel draught anchor ballast bill lading freight quay storm
    Monday Friday please regards attached signed shipment delayed arrived);
srand(1921);
for my $user (0 .. 9) {
    my ($uid, $gid, $home) = (getpwnam("clerk$user"))[2, 3, 7];
    my $box = "$home/Maildir";
    for my $dir ($box, map { "$box/$_" } qw(cur new tmp)) {
        mkdir $dir, 0700 or die $!;
        chown $uid, $gid, $dir;
    }
    for my $n (1 .. 2000) {
        my $lines = 5 + int(rand(70) ** 2 / 70);
        my $time = 1_500_000_000 + $n * 9000 + int(rand(9000));
        my $path = sprintf "%s/cur/%d.M%dP%d.mail1:2,%s", $box, $time, $n, 100 + $user, $n % 3 ? "S" : "RS";
        open my $f, '>', $path or die $!;
        print $f "From: clerk", $n % 10, "\@mail1\nTo: clerk$user\@mail1\nSubject: $words[rand @words] $n\n\n";
        for (1 .. $lines) {
            print $f join(" ", map { $words[rand @words] } 1 .. 9), "\n";
        }
        close $f;
        chown $uid, $gid, $path;
        chmod 0600, $path;
        utime $time, $time, $path;
    }
}
PERL
perl /tmp/fill.pl
rm /tmp/fill.pl
install_program deliver <<'PROGRAM'
#!/bin/sh
# Sends a letter to one of the clerks every two seconds.
n=0
while :; do
    n=$((n + 1))
    printf 'Subject: letter %d\n\nThe tide is at %s.\n' "$n" "$(date)" | /usr/sbin/sendmail -f root "clerk$((n % 10))@mail1"
    sleep 2
done
PROGRAM
install_unit deliver /usr/local/sbin/deliver postfix.service
