package mssql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

type login struct {
	name, kind         string // S of SQL Server, U of Windows, G a group of Windows
	sid, hash          []byte
	database           string
	disabled           bool
	policy, expiration bool
}

type job struct {
	name, description, owner string
	enabled                  bool
	start                    int64
	steps                    []jobStep
	schedules                []jobSchedule
}

type jobStep struct {
	id                       int64
	name, subsystem, command string
	database                 string
	onSuccess, onSuccessStep int64
	onFail, onFailStep       int64
	retries, interval        int64
}

// jobSchedule holds enabled and the freq_ and active_ columns, in their order.
type jobSchedule struct {
	name string
	v    [11]int64
}

// InstanceObjects implements engine.Instance. What the login cannot read becomes a
// finding, and the rest is listed all the same.
func (r *reader) InstanceObjects(ctx context.Context) ([]engine.Object, []engine.Finding, error) {
	s, err := r.d.session(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer s.end()
	i := &instance{s: s}
	for _, step := range []struct {
		what, grant string
		read        func(context.Context) error
	}{
		{"logins", "GRANT CONTROL SERVER", i.logins},
		{"server roles", "GRANT VIEW ANY DEFINITION", i.roles},
		{"server permissions", "GRANT VIEW ANY DEFINITION", i.grants},
		{"jobs", "in msdb: ALTER ROLE [SQLAgentReaderRole] ADD MEMBER", i.jobs},
		{"linked servers", "GRANT VIEW ANY DEFINITION", i.linked},
		{"users without a login", "GRANT VIEW ANY DEFINITION", i.orphans},
	} {
		if err := step.read(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			i.find(engine.Warning, step.what, step.grant+" to "+id(r.d.login)+", where the server has them", "cannot be listed here: %v", err)
		}
	}
	return i.objects, i.findings, nil
}

// instance gathers what lives outside of the database.
type instance struct {
	s        *session
	objects  []engine.Object
	findings []engine.Finding
}

func (i *instance) find(sev engine.Severity, object, remedy, format string, args ...any) {
	i.findings = append(i.findings, engine.Finding{Severity: sev, Object: object, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (i *instance) object(kind, name, definition string) {
	i.objects = append(i.objects, engine.Object{Kind: kind, Name: engine.Name{Name: name}, Definition: definition})
}

func (i *instance) logins(ctx context.Context) error {
	return i.s.each(ctx, sqlLogins(), func(scan func(...any) error) error {
		var l login
		var disabled, policy, expiration flag
		var database text
		if err := scan(&l.name, &l.kind, &l.sid, &disabled, &database, &l.hash, &policy, &expiration); err != nil {
			return err
		}
		l.database, l.disabled, l.policy, l.expiration = string(database), bool(disabled), bool(policy), bool(expiration)
		if l.database == "" {
			l.database = "master"
		}
		if l.kind == "S" && len(l.hash) == 0 {
			i.find(engine.Warning, "login "+l.name, "GRANT CONTROL SERVER to the login that Leeward uses, or make this one at the target by hand with SID = 0x"+fmt.Sprintf("%x", l.sid),
				"the hash of its password cannot be read")
			return nil
		}
		i.object("login", l.name, createLogin(&l))
		return nil
	})
}

func (i *instance) roles(ctx context.Context) error {
	return i.s.each(ctx, sqlServerRoles(), func(scan func(...any) error) error {
		var role, member string
		if err := scan(&role, &member); err != nil {
			return err
		}
		i.object("role member", role+"/"+member, addRoleMember(role, member))
		return nil
	})
}

func (i *instance) grants(ctx context.Context) error {
	return i.s.each(ctx, sqlServerGrants(), func(scan func(...any) error) error {
		var state, permission, name string
		if err := scan(&state, &permission, &name); err != nil {
			return err
		}
		i.object("permission", permission+"/"+name, grantServer(state, permission, name))
		return nil
	})
}

func (i *instance) jobs(ctx context.Context) error {
	var ids []string
	var all []*job
	err := i.s.each(ctx, sqlJobs(), func(scan func(...any) error) error {
		j := &job{}
		var jobID string
		var enabled flag
		var description, owner text
		if err := scan(&jobID, &j.name, &enabled, &description, &owner, &j.start); err != nil {
			return err
		}
		j.enabled, j.description, j.owner = bool(enabled), string(description), string(owner)
		ids, all = append(ids, jobID), append(all, j)
		return nil
	})
	if err != nil {
		return err
	}
	for n, j := range all {
		if err := i.jobParts(ctx, ids[n], j); err != nil {
			return err
		}
		i.object("job", j.name, createJob(j))
		if j.enabled {
			i.find(engine.Note, "job "+j.name, enableJob(j.name), "is made disabled; enable it after the switch, and disable it at the old primary")
		}
	}
	return nil
}

func (i *instance) jobParts(ctx context.Context, jobID string, j *job) error {
	err := i.s.each(ctx, sqlJobSteps(), func(scan func(...any) error) error {
		var s jobStep
		var command, database text
		var proxy *int64
		if err := scan(&s.id, &s.name, &s.subsystem, &command, &database, &s.onSuccess, &s.onSuccessStep, &s.onFail, &s.onFailStep, &s.retries, &s.interval, &proxy); err != nil {
			return err
		}
		s.command, s.database = string(command), string(database)
		if proxy != nil {
			i.find(engine.Warning, "job "+j.name, "make the credential and the proxy at the target, and set the step to it", "step %d runs under a proxy, whose password cannot be read", s.id)
		}
		j.steps = append(j.steps, s)
		return nil
	}, jobID)
	if err != nil {
		return err
	}
	return i.s.each(ctx, sqlJobSchedules(), func(scan func(...any) error) error {
		var c jobSchedule
		into := []any{&c.name}
		for k := range c.v {
			into = append(into, &c.v[k])
		}
		err := scan(into...)
		j.schedules = append(j.schedules, c)
		return err
	}, jobID)
}

func (i *instance) linked(ctx context.Context) error {
	return i.s.each(ctx, sqlLinkedServers(), func(scan func(...any) error) error {
		var name string
		var product, provider, source text
		if err := scan(&name, &product, &provider, &source); err != nil {
			return err
		}
		i.find(engine.Warning, "linked server "+name, "make it at the target with sp_addlinkedserver and sp_addlinkedsrvlogin; its passwords cannot be read",
			"is not carried: product %s, provider %s, data source %s", product, provider, source)
		return nil
	})
}

func (i *instance) orphans(ctx context.Context) error {
	return i.s.each(ctx, sqlDatabaseUsers(), func(scan func(...any) error) error {
		var name string
		if err := scan(&name); err != nil {
			return err
		}
		i.find(engine.Note, "user "+name, adoptUser(name), "no login here has its SID")
		return nil
	})
}

// MakeInstanceObject implements engine.InstanceTarget. A login cannot be given another
// SID, and a job is a thing of many parts: neither is changed where it is there.
func (t *target) MakeInstanceObject(ctx context.Context, o engine.Object, other bool) error {
	switch {
	case o.Kind == "login" && strings.EqualFold(o.Name.Name, t.d.login):
		return &engine.KeptError{Why: "Leeward itself logs in by it"}
	case o.Kind == "login" && other:
		return &engine.KeptError{Why: "a login of that name is there, with another SID, password or setting", Remedy: "drop it at the target and run again: " + dropLogin(o.Name.Name)}
	case o.Kind == "job" && other:
		return &engine.KeptError{Why: "a job of that name is there, and is another", Remedy: "delete it at the target and run again: " + deleteJob(o.Name.Name)}
	}
	err := t.with(ctx, func(s *session) error {
		_, err := s.exec(ctx, o.Definition)
		return err
	})
	if n := number(err); n != 0 {
		// The server's words may repeat a part of the statement, which may hold a hash.
		return fmt.Errorf("make %s %s: error %d of the server", o.Kind, o.Name.Name, n)
	}
	return wrap(err, "make %s %s", o.Kind, o.Name.Name)
}

// Pace implements engine.Pacer.
func (s *source) Pace(ctx context.Context) (int64, error) {
	ses, err := s.d.session(ctx)
	if err != nil {
		return 0, err
	}
	defer ses.end()
	var first time.Time
	var got int64
	err = ses.each(ctx, sqlPace(), func(scan func(...any) error) error {
		var v string
		if err := scan(&v); err != nil {
			return err
		}
		if first.IsZero() {
			first = time.Now() // what came until then is latency
			return nil
		}
		if got += int64(len(v)); time.Since(first) >= time.Second {
			return errPaced
		}
		return nil
	})
	if err != nil && !errors.Is(err, errPaced) {
		return 0, wrap(err, "measure the link")
	}
	return int64(float64(got) / max(time.Since(first), time.Millisecond).Seconds()), nil
}

// errPaced ends a measurement that has seen enough.
var errPaced = errors.New("enough was measured")

var (
	_ engine.InstanceTarget = (*target)(nil)
	_ engine.Pacer          = (*source)(nil)
)
