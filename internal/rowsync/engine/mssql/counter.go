package mssql

import "math/big"

// next is the value from which a sequence that took over must go on: past the current
// one and past what is cached, which a server that went down may have given out.
func (q *sequenceInfo) next() string {
	current, ok := new(big.Int).SetString(plain(q.current), 10)
	step, ok2 := new(big.Int).SetString(plain(q.increment), 10)
	if !ok || !ok2 {
		return plain(q.current)
	}
	ahead := q.cache
	if q.cached && ahead == 0 {
		ahead = defaultCache
	}
	next := new(big.Int).Add(current, new(big.Int).Mul(step, big.NewInt(ahead+1)))
	if limit, ok := new(big.Int).SetString(plain(q.max), 10); ok && step.Sign() > 0 && next.Cmp(limit) > 0 {
		return q.wrapped(limit, q.min)
	}
	if limit, ok := new(big.Int).SetString(plain(q.min), 10); ok && step.Sign() < 0 && next.Cmp(limit) < 0 {
		return q.wrapped(limit, q.max)
	}
	return next.String()
}

// defaultCache is how many numbers a sequence keeps where its definition leaves that
// to the server; the server does not tell, and was seen to take 50.
const defaultCache = 50

// wrapped is where a sequence stands at its end: a cycling one begins again.
func (q *sequenceInfo) wrapped(limit *big.Int, first string) string {
	if q.cycle {
		return plain(first)
	}
	return limit.String()
}

// reseed is the value that an identity at now has to be set to where the source's stands
// at value, "" where it is past that already. A table that never had a row would give
// out the very value it is set to, so one number is left out.
func reseed(value, now, increment string) string {
	v, ok := new(big.Int).SetString(plain(value), 10)
	step, ok2 := new(big.Int).SetString(plain(increment), 10)
	if !ok || !ok2 {
		return ""
	}
	if n, ok := new(big.Int).SetString(plain(now), 10); ok && n.Cmp(v)*step.Sign() > 0 {
		return ""
	}
	return new(big.Int).Add(v, step).String()
}
