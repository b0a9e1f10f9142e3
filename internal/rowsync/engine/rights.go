package engine

import "context"

// Right is a statement that gives an object its owner, or a role a privilege on it.
type Right struct {
	Of        Name   // as Object.Name has it; of a column, its table; of the whole database, none
	Role      string // that must be at the target; "" is everyone
	Statement string
}

// Rights is offered by both ends of engines whose objects have owners or grants.
type Rights interface {
	// Rights lists what gives the objects of the database the owners and grants they have
	// here, owners first. Equal rights have equal statements at both ends.
	Rights(ctx context.Context) ([]Right, error)
}

// RightsTarget gives what Rights lists. Targets of drivers may offer it.
type RightsTarget interface {
	Rights
	// Allow gives a right. It fails with a NoRoleError where the role is not there.
	Allow(ctx context.Context, r Right) error
}

// NoRoleError says that a role is not at the target.
type NoRoleError struct{ Role string }

func (e *NoRoleError) Error() string { return "there is no role " + e.Role }
