package forecast

import (
	"testing"
	"time"
)

func TestWhatIf(t *testing.T) {
	in := Input{Link: Within(10e6, 0.75), Items: []Item{
		{Name: "small", Wire: Exactly(1e6)}, {Name: "middle", Wire: Exactly(100e6)}, {Name: "large", Wire: Exactly(900e6)},
	}}
	base := Make(in)
	if same := Make(WhatIf{}.In(in)); same.Safe != base.Safe {
		t.Errorf("nothing changed, and it takes %v in place of %v", same.Safe, base.Safe)
	}
	fast := Make(WhatIf{Link: 20e6}.In(in))
	if r := float64(fast.Safe.P50) / float64(base.Safe.P50); r < 0.49 || r > 0.51 {
		t.Errorf("with twice the link it takes %.3f times as long", r)
	}
	more := WhatIf{More: 9}.In(in)
	if len(more.Items) != 12 || more.Items[11].Wire != Exactly(100e6) || len(in.Items) != 3 {
		t.Errorf("nine more: %+v", more.Items)
	}
	if r := float64(Make(more).Safe.P50) / float64(base.Safe.P50); r < 1.8 || r > 2 {
		t.Errorf("with 900 MB more on 1001 it takes %.3f times as long", r)
	}
	if got := (WhatIf{More: 2, Later: time.Hour}).In(Input{}); len(got.Items) != 0 {
		t.Errorf("more of nothing: %+v", got)
	}
}
