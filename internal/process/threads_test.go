package process

import "testing"

func TestOnlySmallMachinesGetMoreThreadsThanProcessors(t *testing.T) {
	for _, c := range []struct {
		what            string
		now, processors int
		onlyShare       bool
		want            int
	}{
		{"one processor", 1, 1, false, 2},
		{"two processors", 2, 2, false, 4},
		{"three processors", 3, 3, false, 4},
		{"four processors", 4, 4, false, 4},
		{"many processors", 64, 64, false, 64},
		{"a container's share of many", 2, 64, true, 2},
		{"a container's share of a few", 2, 4, true, 2},
		{"a container's share of two, of which Go makes two", 2, 2, true, 2},
		{"fewer threads than processors, for whatever reason", 2, 4, false, 2},
	} {
		if got := threads(c.now, c.processors, c.onlyShare); got != c.want {
			t.Errorf("%s: %d threads, want %d", c.what, got, c.want)
		}
	}
}
