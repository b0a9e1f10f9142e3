package forecast

import (
	"fmt"
	"slices"
	"time"
)

// WhatIf is a change of an input that somebody wonders about. The zero value changes
// nothing.
type WhatIf struct {
	Link  float64       // bytes a second the link would carry; 0: as it is
	More  int           // servers that would come on top, each like the one in the middle by its bytes
	Later time.Duration // by which all would begin later
}

// In is the input changed.
func (w WhatIf) In(in Input) Input {
	in.Items = slices.Clone(in.Items)
	if w.Link > 0 {
		// What was measured of the link's unsteadiness is taken to hold for another one.
		spread := 1.0
		if in.Link.P50 > 0 {
			spread = in.Link.P95 / in.Link.P50
		}
		in.Link = Within(w.Link, spread)
	}
	if len(in.Items) == 0 {
		return in
	}
	like := slices.Clone(in.Items)
	slices.SortStableFunc(like, func(a, b Item) int {
		switch {
		case a.Wire.P50 < b.Wire.P50:
			return -1
		case a.Wire.P50 > b.Wire.P50:
			return 1
		}
		return 0
	})
	for n := range w.More {
		it := like[len(like)/2]
		it.Name = fmt.Sprintf("another-%d", n+1)
		in.Items = append(in.Items, it)
	}
	return in
}
