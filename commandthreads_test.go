package responsesproxygate

import "testing"

func TestOnlySmallMachinesGetMoreThreadsThanProcessors(t *testing.T) {
	for _, c := range []struct {
		what                  string
		now, processors, want int
	}{
		{"one processor", 1, 1, 2},
		{"two processors", 2, 2, 4},
		{"three processors", 3, 3, 4},
		{"four processors", 4, 4, 4},
		{"many processors", 64, 64, 64},
		{"a container's share of many", 2, 64, 2},
		{"a container's share of a few", 2, 4, 2},
		{"a container's share of one, of which Go makes two", 2, 1, 2},
	} {
		if got := threads(c.now, c.processors); got != c.want {
			t.Errorf("%s: %d threads, want %d", c.what, got, c.want)
		}
	}
}
