# MariaDB on btrfs. The key opens the user ops, who has sudo; /tmp is noexec.
sudo_user ops
cat > /etc/mysql/mariadb.conf.d/90-lab.cnf <<'CONF'
[mariadbd]
bind-address = 0.0.0.0
innodb_buffer_pool_size = 32M
innodb_log_file_size = 16M
CONF
install -d -o mysql -g mysql /run/mysqld
{
    echo 'CREATE DATABASE plant;'
    echo 'CREATE TABLE plant.readings (id bigint AUTO_INCREMENT PRIMARY KEY, at datetime(6) NOT NULL, sensor int NOT NULL, value double) ENGINE=InnoDB;'
    echo 'INSERT INTO plant.readings (at, sensor, value) SELECT now(6), seq % 16, seq * 0.37 FROM plant_seq;' \
        | sed 's/plant_seq/(SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n AS seq FROM digits a, digits b, digits c, digits d) s/; s/digits/plant.digits/g'
} > /tmp/plant.sql
sed -i '1a CREATE TABLE plant.digits (n int) ENGINE=InnoDB; INSERT INTO plant.digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);' /tmp/plant.sql
sed -i 's/; INSERT INTO plant.digits/;\nINSERT INTO plant.digits/' /tmp/plant.sql
mariadbd --user=mysql --bootstrap < /tmp/plant.sql
rm -rf /tmp/plant.sql /run/mysqld
install_program meter <<'PROGRAM'
#!/bin/sh
# Writes a reading once a second, in one long session.
while :; do
    echo "INSERT INTO readings (at, sensor, value) VALUES (now(6), $(date +%S), rand());"
    sleep 1
done | mariadb plant
PROGRAM
install_unit meter /usr/local/sbin/meter mariadb.service
