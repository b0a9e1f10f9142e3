// Package e2e holds no code, only tests: they raise one light lab, let the
// built program work on it from end to end, and judge what it leaves behind by
// the tools of others.
package e2e
