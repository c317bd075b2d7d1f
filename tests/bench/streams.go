//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// streams opens a number of streams, spread over a while, and reads them all
// to their ends.
type streams struct {
	count int
	open  func(ctx context.Context, m *measurement, log *eventLog, deadline time.Time) error
}

// ramp is the time over which the streams are opened.
func (s streams) ramp() time.Duration { return time.Duration(s.count) * time.Millisecond }

func (s streams) run(ctx context.Context, m *measurement) error {
	idle, _ := m.memory()
	used, begin := m.cpu(), time.Now()
	logs := make([]eventLog, s.count)
	endings := make([]error, s.count)
	var open sync.WaitGroup
	for n := range s.count {
		open.Go(func() {
			pause(ctx, time.Until(begin.Add(s.ramp()*time.Duration(n)/time.Duration(s.count))))
			endings[n] = s.open(ctx, m, &logs[n], time.Now().Add(streamLength+m.patience))
		})
	}
	open.Wait()
	used = m.cpu() - used

	first, delays := newTimings(), newTimings()
	var events, cut, hanging float64
	for n, log := range logs {
		events += float64(log.received)
		if log.received > 0 {
			first.add(log.first)
		}
		for _, delay := range log.delays {
			delays.add(delay)
		}
		if err := endings[n]; err != nil {
			if cut++; timedOut(err) {
				hanging++
			}
			m.complain(err.Error())
		}
	}
	figures := m.figures
	first.into(figures, firstEvent)
	delays.into(figures, eventDelay)
	figures[eventsReceived] = events
	figures[lostEvents] = float64(s.count*eventsPerStream) - events
	figures[truncated], figures[hung] = cut, hanging
	if used > 0 && events > 0 {
		figures[cpuPerEvent] = used.Seconds() * 1e6 / events
	}
	if _, peak := m.memory(); peak > 0 {
		figures[kibPerStream] = float64(peak-idle) / 1024 / float64(s.count)
	}
	return ctx.Err()
}

var errNoEvents = errors.New("the answer is no event stream")

// openEvents asks for a stream as Codex does.
func openEvents(_ context.Context, m *measurement, log *eventLog, deadline time.Time) error {
	return readEvents(request{size: codexRequest}, m, log, deadline)
}

// openBriefly asks for a stream with a request as small as can be.
func openBriefly(_ context.Context, m *measurement, log *eventLog, deadline time.Time) error {
	return readEvents(request{}, m, log, deadline)
}

// readEvents asks for a stream of server-sent events and reads it to its end.
func readEvents(r request, m *measurement, log *eventLog, deadline time.Time) error {
	conn, err := dial(m.target.addr, deadline)
	if err != nil {
		return err
	}
	defer conn.Close()
	asked := time.Now()
	if _, err := conn.Write(r.bytes(m.target)); err != nil {
		return err
	}
	h, err := readHead(conn.in)
	if err != nil {
		return err
	}
	if h.status != 200 {
		return errNoEvents
	}
	lines := bufio.NewReaderSize(h.body(conn.in), 1<<10)
	for {
		line, err := lines.ReadSlice('\n')
		now := time.Now()
		if event, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			log.add(event, asked, now)
		}
		if err == io.EOF && log.received == eventsPerStream {
			return nil
		}
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
}

// openWebSocket asks for the same events with a message of a WebSocket.
func openWebSocket(ctx context.Context, m *measurement, log *eventLog, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	header := map[string][]string{"X-Proxy-Token": {m.target.token}}
	if !m.target.injects {
		header["Authorization"] = []string{"Bearer " + operatorKey}
	}
	conn, answer, err := websocket.Dial(ctx, "ws://"+m.target.addr+"/v1/responses", &websocket.DialOptions{HTTPHeader: header})
	if answer != nil && answer.Body != nil {
		defer answer.Body.Close()
	}
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	asked := time.Now()
	if err := conn.Write(ctx, websocket.MessageText, []byte(`{"type":"response.create","model":"gpt-5"}`)); err != nil {
		return err
	}
	for log.received < eventsPerStream {
		_, event, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		before := log.received
		if log.add(event, asked, time.Now()); log.received == before {
			return errors.New("a message is damaged or out of order")
		}
	}
	return conn.Close(websocket.StatusNormalClosure, "")
}
