package budget

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// window is a stretch of time that a limit is for, aligned to UTC, so that all
// replicas mean the same one: a length that divides a day, a day, a week from
// Monday, or a calendar month.
type window struct {
	name   string        // as the config has it, in its shortest form
	length time.Duration // 0: a month
}

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// parseWindow understands "month" and Caddy's durations.
func parseWindow(text string) (window, error) {
	if text == "month" {
		return window{name: text}, nil
	}
	length, err := caddy.ParseDuration(text)
	switch {
	case err != nil:
		return window{}, fmt.Errorf("per %q: write a duration such as 1h, or 1d, 7d or month", text)
	case length == day:
		return window{"1d", day}, nil
	case length == week:
		return window{"7d", week}, nil
	case length < time.Minute || length > day || day%length != 0 || length%time.Second != 0: // (keys have no fractions)
		return window{}, fmt.Errorf("per %s: write a duration of a minute or more that divides a day, such as 10m, 1h or 8h, or 1d, 7d or month", text)
	}
	return window{shortest(length), length}, nil
}

// shortest is a duration without its trailing zeros: 1h, not 1h0m0s.
func shortest(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// order is how windows are sorted: by length.
func (w window) order() time.Duration {
	if w.length == 0 {
		return 28 * day
	}
	return w.length
}

// start is when the window that contains t began.
func (w window) start(t time.Time) time.Time {
	t = t.UTC()
	if w.length == 0 {
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return t.Truncate(w.length) // (counts from a Monday)
}

// end is when the window that began at start ends.
func (w window) end(start time.Time) time.Time {
	if w.length == 0 {
		return start.AddDate(0, 1, 0)
	}
	return start.Add(w.length)
}

// slot is the window of this length that contains t.
func (w window) slot(t time.Time) slot { return slot{w.name, w.start(t).Unix()} }

// kept is how long what was spent is kept after its window has ended: for a
// clock that was ahead and is set right.
const kept = 48 * time.Hour

// isOver reports whether nobody needs what was spent in a window any more.
func (s slot) isOver(now time.Time) bool {
	w, err := parseWindow(s.window)
	return err != nil || now.After(w.end(time.Unix(s.start, 0).UTC()).Add(kept))
}
