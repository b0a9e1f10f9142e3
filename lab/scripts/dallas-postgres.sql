-- The stale clone of db1's database shop: made some time ago, worked with since.
CREATE ROLE leeward LOGIN SUPERUSER PASSWORD 'harbour';
CREATE ROLE orders LOGIN PASSWORD 'harbour';
CREATE DATABASE shop OWNER orders;
\connect shop
SET ROLE orders;
CREATE TABLE orders (id bigserial PRIMARY KEY, item text NOT NULL, quantity int NOT NULL,
    placed timestamptz NOT NULL DEFAULT now());
INSERT INTO orders (item, quantity, placed)
    SELECT (ARRAY['rope','anchor','lantern','chart'])[1 + n % 4], 1 + n % 9, timestamptz '2017-08-11 12:00:00+00' + n * interval '1 minute'
    FROM generate_series(1, 18000) n;
UPDATE orders SET quantity = quantity + 100 WHERE id % 100 = 7;
DELETE FROM orders WHERE id BETWEEN 4000 AND 4100;
INSERT INTO orders (id, item, quantity) SELECT n, 'test', 1 FROM generate_series(900000, 900049) n;
