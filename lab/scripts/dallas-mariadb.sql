-- The stale clone of db2's database plant: made some time ago, worked with since.
CREATE USER leeward@'%' IDENTIFIED BY 'harbour';
GRANT ALL PRIVILEGES ON *.* TO leeward@'%' WITH GRANT OPTION;
CREATE DATABASE plant;
USE plant;
CREATE TABLE plant.readings (id bigint AUTO_INCREMENT PRIMARY KEY, at datetime(6) NOT NULL, sensor int NOT NULL, value double) ENGINE=InnoDB;
INSERT INTO plant.readings (id, at, sensor, value) SELECT seq, '2017-08-11 12:00:00' + INTERVAL seq MINUTE, seq MOD 19, seq * 0.37 FROM seq_1_to_9000;
UPDATE plant.readings SET value = 0 WHERE id MOD 100 = 7;
DELETE FROM plant.readings WHERE id BETWEEN 4000 AND 4100;
INSERT INTO plant.readings (id, at, sensor, value) SELECT seq, '2017-08-26 12:00:00', 0, NULL FROM seq_900000_to_900049;
