package rowsync

import (
	"context"
	"time"
)

// Switchable is a replicated database as a runbook drives it, whatever the mode. A
// Replicator is one for rows, a Standby one for physical copies.
//
// The planned switch is Fence, Drain, Promote, in that order: nothing is lost. The
// unplanned one is Failover alone, without the source. After either, the way back is
// another Switchable of the same mode with its ends swapped: its Drain is then what
// reprotects, and the three steps of the planned switch are the failback. A fence that
// the first switch raised at what has become the target does not keep the way back from
// writing there; of rows it stays after the Promote that ends the failback, and is lifted
// by the Unfence of the first way. Of a physical copy Promote lifts it.
//
// Every method may be called again after it was cut or has failed, and finds what is
// done already. Errors are NotDone unless they are of ctx: then the end should be
// looked at before anything else is decided. The methods are called one at a time.
type Switchable interface {
	// Fence makes the source unable to take writes of anybody else and proves it.
	// Transactions that are open are ended after grace. It needs the source.
	Fence(ctx context.Context, grace time.Duration) (Evidence, error)
	// Unfence undoes Fence: it is the way back from a planned switch that is called
	// off before Promote. It needs the source.
	Unfence(ctx context.Context) (Evidence, error)
	// Drain brings the target to where the source stood when it was called, or later.
	// Behind a fence that is everything there is. It needs both ends.
	Drain(ctx context.Context) (Evidence, error)
	// Promote makes the target what applications write to. Without force it fails with
	// a NotReadyError where the target is no state the source had, or known changes
	// are not applied. It needs the target alone.
	Promote(ctx context.Context, force bool) (Evidence, error)
	// Failover applies what has reached the target's site, promotes, and says what may
	// be lost up to failed, the moment the source was lost; the zero time stands for
	// now. It needs the target alone and never looks at the source: that nobody writes
	// there any more is for the caller to know.
	Failover(ctx context.Context, failed time.Time, force bool) (Loss, Evidence, error)
}

var _ Switchable = (*Replicator)(nil)
