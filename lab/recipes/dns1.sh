# The site's DNS.
cat > /etc/dnsmasq.d/lab.conf <<'CONF'
no-resolv
domain=miami.example
expand-hosts
local=/miami.example/
log-queries
log-facility=/var/log/dnsmasq.log
CONF
