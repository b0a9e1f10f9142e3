# PostgreSQL with the orders of app1 and a table that is written all the time.
version=$(ls /etc/postgresql)
conf=/etc/postgresql/$version/main
cat > "$conf/conf.d/lab.conf" <<'CONF'
listen_addresses = '*'
shared_buffers = 32MB
max_connections = 40
wal_level = logical
max_slot_wal_keep_size = 1GB
CONF
echo 'host all all 10.10.0.0/24 scram-sha-256' >> "$conf/pg_hba.conf"
echo 'host shop leeward 10.99.0.2/32 scram-sha-256' >> "$conf/pg_hba.conf"
install -d -m 2775 -o postgres -g postgres /run/postgresql
pg_ctlcluster "$version" main start
runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 <<'SQL'
CREATE USER orders PASSWORD 'harbour';
CREATE DATABASE shop OWNER orders;
CREATE USER leeward REPLICATION PASSWORD 'harbour' IN ROLE orders;
GRANT CREATE ON DATABASE shop TO leeward;
GRANT SET ON PARAMETER session_replication_role TO leeward;
GRANT SET ON PARAMETER leeward.fence TO leeward;
\connect shop
SET ROLE orders;
CREATE TABLE orders (id bigserial PRIMARY KEY, item text NOT NULL, quantity int NOT NULL,
    placed timestamptz NOT NULL DEFAULT now());
INSERT INTO orders (item, quantity, placed)
    SELECT (ARRAY['rope','anchor','lantern','chart'])[1 + n % 4], 1 + n % 9, timestamptz '2017-08-11 12:00:00+00' + n * interval '1 minute'
    FROM generate_series(1, 20000) n;
CREATE TABLE ticks (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), load text);
SQL
pg_ctlcluster "$version" main stop
rm -rf /run/postgresql
install_program ticker <<'PROGRAM'
#!/bin/sh
# Writes a row every two seconds, in one long session.
while :; do
    echo "INSERT INTO ticks (load) VALUES ('$(cut -d' ' -f1 /proc/loadavg)');"
    sleep 2
done | runuser -u postgres -- psql -q shop
PROGRAM
install_unit ticker /usr/local/sbin/ticker postgresql.service
