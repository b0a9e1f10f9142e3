# MariaDB on btrfs. The key opens the user ops, who has sudo; /tmp is noexec.
sudo_user ops
cat > /etc/mysql/mariadb.conf.d/90-lab.cnf <<'CONF'
[mariadbd]
bind-address = 0.0.0.0
innodb_buffer_pool_size = 32M
innodb_log_file_size = 16M
server_id = 1
log_bin = binlog
binlog_format = ROW
binlog_row_image = FULL
binlog_row_metadata = FULL
gtid_strict_mode = 1
expire_logs_days = 3
CONF
install -d -o mysql -g mysql /run/mysqld
cat > /tmp/plant.sql <<'SQL'
CREATE DATABASE plant;
CREATE TABLE plant.digits (n int) ENGINE=InnoDB;
INSERT INTO plant.digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);
CREATE TABLE plant.readings (id bigint AUTO_INCREMENT PRIMARY KEY, at datetime(6) NOT NULL, sensor int NOT NULL, value double) ENGINE=InnoDB;
INSERT INTO plant.readings SELECT n, '2017-08-11 12:00:00' + INTERVAL n MINUTE, n MOD 19, n * 0.37
    FROM (SELECT 1 + a.n + 10 * b.n + 100 * c.n + 1000 * d.n AS n FROM plant.digits a, plant.digits b, plant.digits c, plant.digits d) s ORDER BY n;
FLUSH PRIVILEGES;
CREATE USER leeward@'10.99.0.2' IDENTIFIED BY 'harbour';
GRANT REPLICATION SLAVE, BINLOG MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN, PROCESS, RELOAD ON *.* TO leeward@'10.99.0.2';
GRANT ALL PRIVILEGES ON plant.* TO leeward@'10.99.0.2';
GRANT ALL PRIVILEGES ON leeward.* TO leeward@'10.99.0.2';
SQL
# Started through its socket unit, MariaDB would not listen on TCP.
ln -sf /dev/null /etc/systemd/system/mariadb.socket
mariadbd --user=mysql --bootstrap < /tmp/plant.sql
rm -rf /tmp/plant.sql /run/mysqld
install_program meter <<'PROGRAM'
#!/bin/sh
# Writes a reading every two seconds, in one long session.
while :; do
    echo "INSERT INTO readings (at, sensor, value) VALUES (now(6), $(date +%S), rand());"
    sleep 2
done | mariadb plant
PROGRAM
install_unit meter /usr/local/sbin/meter mariadb.service
