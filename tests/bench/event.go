//go:build unix

package main

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// A stream has this many events, this far apart; the first comes at once.
const (
	eventsPerStream = 17
	eventInterval   = 250 * time.Millisecond
	streamLength    = (eventsPerStream - 1) * eventInterval
)

// pace hands the events of one stream to send, each when its time has come.
func pace(send func(event []byte) error) error {
	start := time.Now()
	var event []byte
	for n := range eventsPerStream {
		time.Sleep(time.Until(start.Add(time.Duration(n) * eventInterval)))
		event = fmt.Appendf(event[:0], `{"type":"response.output_text.delta","sequence_number":%d,"sent":%d,"delta":" small"}`, n, time.Now().UnixNano())
		if err := send(event); err != nil {
			return err
		}
	}
	return nil
}

// eventLog is what one caller saw of one stream.
type eventLog struct {
	received int // in their order, from the first on
	first    time.Duration
	delays   []time.Duration // from the upstream's sending to the caller's receiving
}

// add takes in an event that came now.
func (l *eventLog) add(event []byte, asked, now time.Time) {
	number, ok := numberAfter(event, `"sequence_number":`)
	sent, hasTime := numberAfter(event, `"sent":`)
	if !ok || !hasTime || number != int64(l.received) {
		return // out of order or damaged: it counts as lost
	}
	if l.received == 0 {
		l.first = now.Sub(asked)
	}
	l.received++
	l.delays = append(l.delays, time.Duration(max(0, now.UnixNano()-sent)))
}

func numberAfter(text []byte, name string) (int64, bool) {
	_, rest, ok := bytes.Cut(text, []byte(name))
	if !ok {
		return 0, false
	}
	end := bytes.IndexAny(rest, ",}")
	if end < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(rest[:end]), 10, 64)
	return n, err == nil
}
