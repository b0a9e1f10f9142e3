# A web server: nginx, a thousand pages, a swap file.
mkdir -p /var/www/html/pages
for n in $(seq 1 1000); do
    echo "<html><body><h1>Page $n</h1><p>Harbour pilots since 1921. Item $((n * 7919 % 10007)).</p></body></html>" > "/var/www/html/pages/$n.html"
done
echo '<html><body><h1>web1</h1><a href="pages/1.html">pages</a></body></html>' > /var/www/html/index.html
head -c 20000000 /dev/urandom > /var/www/html/brochure.bin
sed -i 's/listen \[::\]:80 default_server;//' /etc/nginx/sites-available/default
dd if=/dev/zero of=/swapfile bs=1M count=32 status=none
chmod 600 /swapfile
mkswap -q /swapfile >/dev/null
