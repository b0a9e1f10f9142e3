# An HTTP application whose orders are in db1's PostgreSQL. root's shell is tcsh.
mkdir -p /opt/orders
cat > /etc/orders.conf <<'CONF'
host=10.10.0.13 dbname=shop user=orders password=harbour connect_timeout=15
CONF
chmod 600 /etc/orders.conf
cat > /opt/orders/orders.py <<'PY'
"""Takes and lists orders over HTTP; they are kept in PostgreSQL."""
import http.server
import json
import logging
import random

import psycopg2

logging.basicConfig(filename="/var/log/orders.log", level=logging.INFO,
                    format="%(asctime)s %(levelname)s %(message)s")
ITEMS = ["rope", "anchor", "lantern", "chart", "sextant", "tarpaulin"]


def query(statement, *values):
    with open("/etc/orders.conf") as conf:
        connection = psycopg2.connect(conf.read().strip())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()
    finally:
        connection.close()


def health():
    return {"ok": True, "orders": query("SELECT count(*) FROM orders")[0][0]}


def latest():
    rows = query("SELECT id, item, quantity FROM orders ORDER BY id DESC LIMIT 10")
    return [{"id": i, "item": item, "quantity": n} for i, item, n in rows]


def order():
    item = random.choice(ITEMS)
    row = query("INSERT INTO orders (item, quantity) VALUES (%s, %s) RETURNING id",
                item, random.randint(1, 9))
    logging.info("order %d: %s", row[0][0], item)
    return {"id": row[0][0]}


PAGES = {"/health": health, "/orders": latest, "/order": order}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = 404, {"error": "no such page"}
        page = PAGES.get(self.path)
        if page:
            try:
                status, body = 200, page()
            except psycopg2.Error as err:
                status, body = 503, {"error": str(err)}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
PY
install_program shopper <<'PROGRAM'
#!/usr/bin/python3
"""Orders something every three seconds."""
import time
import urllib.request

while True:
    time.sleep(3)
    try:
        urllib.request.urlopen("http://127.0.0.1:8080/order", timeout=30).read()
    except OSError:
        time.sleep(2)
PROGRAM
install_unit orders '/usr/bin/python3 /opt/orders/orders.py'
install_unit shopper /usr/local/sbin/shopper orders.service
usermod -s /bin/tcsh root
