package rowsync

import "testing"

// What differs in the middle of a large table is seen by the sample.
func TestAssessSeesTheMiddle(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		fill := "INSERT INTO wide SELECT g, 'x' FROM generate_series(1, 200000) g"
		analyze := "ANALYZE wide"
		if d.k.name == "mariadb" {
			fill, analyze = "INSERT INTO wide SELECT seq, 'x' FROM seq_1_to_200000", "ANALYZE TABLE wide"
		}
		for _, s := range []session{d.app, d.far} {
			d.at(s, "CREATE TABLE wide (id INT NOT NULL PRIMARY KEY, v VARCHAR(20))", fill, analyze)
		}
		d.at(d.far, "UPDATE wide SET v = 'stale' WHERE id BETWEEN 100000 AND 120000")
		a, err := d.replicator().Assess(t.Context())
		d.must(err)
		if e := a.Tables[0]; e.Share < 0.05 || e.Share > 0.25 || e.Sampled > 150_000 || e.Sampled < 40_000 {
			t.Errorf("10 %% differ; the estimate is %+v", e)
		}
		if a.DigestRate <= 0 || a.Absent != 0 {
			t.Errorf("a pace of %.0f bytes a second, %d absent", a.DigestRate, a.Absent)
		}
		if e := a.RowsEffort(1 << 20); e.Bytes != a.Differing || e.Time <= 0 || e.Time < a.RowsEffort(1<<30).Time {
			t.Errorf("the effort is %+v", e)
		}
	})
}

// A table that is too large to be counted out is sampled across its key all the same.
func TestAssessSeesTheMiddleOfLargeTables(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		fill, words, analyze := "INSERT INTO wide SELECT g, 'x' FROM generate_series(1, 200000) g", "INSERT INTO words SELECT lpad(g::text, 8, '0'), 'x' FROM generate_series(1, 200000) g", "ANALYZE"
		if d.k.name == "mariadb" {
			fill, words, analyze = "INSERT INTO wide SELECT seq, 'x' FROM seq_1_to_200000", "INSERT INTO words SELECT LPAD(seq, 8, '0'), 'x' FROM seq_1_to_200000", "ANALYZE TABLE wide, words"
		}
		for _, s := range []session{d.app, d.far} {
			d.at(s, "CREATE TABLE wide (id INT NOT NULL PRIMARY KEY, v VARCHAR(20))", fill, "CREATE TABLE words (id VARCHAR(20) NOT NULL PRIMARY KEY, v VARCHAR(20))", words, analyze)
		}
		d.at(d.far, "UPDATE wide SET v = 'stale' WHERE id BETWEEN 80000 AND 140000", "UPDATE words SET v = 'stale' WHERE id >= '00190000'")
		r := d.replicator()
		r.placeable = 1000
		a, err := r.Assess(t.Context())
		d.must(err)
		for _, e := range a.Tables {
			if e.Share < 0.02 || e.Share > 0.6 || e.Sampled > 150_000 || e.Sampled < 5_000 {
				t.Errorf("what differs was not seen: %+v", e)
			}
		}
	})
}
