#!/bin/bash
# The first process of Dallas's database servers: PostgreSQL and MariaDB of this
# machine's packages, with data of their own, that hold a stale clone of what Miami has.
# Started in new pid, mount, uts and ipc namespaces and in Dallas's network; when it
# dies, both servers go with it.
# Arguments: WORKDIR ADDRESS
# It waits for a line on its standard input first, so that it is on record before it
# does anything: end of file means that nobody recorded it.
set -eu
read -r go || exit 1
exec < /dev/null
work=$1 address=$2
mount --make-rprivate /
mount -t proc proc /proc
hostname dallas
umask 022
# Where the servers' users may go, whoever owns the lab's directory. Nobody else sees it.
mount --bind "$work" /mnt
work=/mnt
cd "$work"
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
as() { # USER COMMAND…
    local user=$1
    shift
    setpriv --reuid "$user" --regid "$user" --init-groups env -i PATH="$PATH" LC_ALL=C HOME=/ "$@"
}

start_postgres() {
    local bin
    bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    install -d -o postgres -g postgres -m 700 postgres
    as postgres "$bin/initdb" -D "$work/postgres" --no-sync -E UTF8 --locale=C.UTF-8 --auth-local=peer --auth-host=scram-sha-256 > postgres.log
    cat >> postgres/postgresql.conf <<CONF
listen_addresses = '127.0.0.1,$address'
unix_socket_directories = '$work/postgres'
wal_level = logical
shared_buffers = 32MB
fsync = off
CONF
    echo 'host shop orders 10.10.0.0/24 scram-sha-256' >> postgres/pg_hba.conf # clients in Miami, after a move
    as postgres "$bin/postgres" -D "$work/postgres" >> postgres.log 2>&1 &
    for _ in $(seq 100); do
        if as postgres "$bin/pg_isready" -q -h "$work/postgres"; then break; fi
        sleep 0.1
    done
    as postgres "$bin/psql" -q -v ON_ERROR_STOP=1 -h "$work/postgres" postgres < dallas-postgres.sql >> postgres.log
}

start_mariadb() {
    install -d -o mysql -g mysql -m 700 mariadb mariadb-tmp
    as mysql mariadb-install-db --no-defaults --datadir="$work/mariadb" --auth-root-authentication-method=socket --skip-test-db > mariadb.log 2>&1
    as mysql mariadbd --no-defaults --datadir="$work/mariadb" --tmpdir="$work/mariadb-tmp" --socket="$work/mariadb/sock" --pid-file="$work/mariadb/pid" \
        --bind-address=0.0.0.0 --skip-name-resolve --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=2 \
        --server-id=2 --log-bin="$work/mariadb/binlog" --binlog-format=ROW --binlog-row-image=FULL --binlog-row-metadata=FULL \
        --gtid-strict-mode=1 --local-infile=1 --character-set-server=utf8mb4 --collation-server=utf8mb4_general_ci >> mariadb.log 2>&1 &
    for _ in $(seq 150); do
        if as mysql mariadb-admin --no-defaults -u mysql --socket="$work/mariadb/sock" ping > /dev/null 2>&1; then break; fi
        sleep 0.1
    done
    mariadb --no-defaults -u root --socket="$work/mariadb/sock" < dallas-mariadb.sql >> mariadb.log
}

start_postgres &
postgres=$!
start_mariadb
wait "$postgres"
touch started

# Reap whatever is re-parented here, for ever.
while :; do
    wait -n || sleep 1
    sleep 0.2
done
