//go:build unix

package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// progress is a line on stderr that says how far the run is.
type progress struct {
	out      io.Writer
	terminal bool
	total    int
	count    int
	started  time.Time
	said     time.Time
	planned  time.Duration // of everything
	past     time.Duration // of that, what is done
}

func newProgress(b *bench, peers []*peer, workloads []workload, rounds int) *progress {
	p := &progress{out: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd())), started: time.Now()}
	for _, w := range workloads {
		for _, peer := range peers {
			if w.suits(peer) {
				p.total += rounds
				p.planned += time.Duration(rounds) * w.lasts(b.duration, b.warmUp)
			}
		}
	}
	return p
}

// begin says what is measured now.
func (p *progress) begin(round int, w workload, peers []*peer) {
	first := p.count + 1
	p.count += len(peers)
	if !p.terminal && time.Since(p.said) < 10*time.Second {
		return
	}
	if first == 1 {
		p.say("%d measurements, about %s", p.total, p.left())
	}
	p.said = time.Now()
	who := peers[0].name
	if len(peers) > 1 {
		who = fmt.Sprintf("%d peers in turns", len(peers))
	}
	line := fmt.Sprintf("%d of %d, round %d: %s, %s; about %s left", first, p.total, round, w.name, who, p.left())
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.out, line)
	}
}

// left is the plan for what is to come, corrected by how the past went.
func (p *progress) left() time.Duration {
	left := p.planned - p.past
	if p.past > 0 {
		left = time.Duration(float64(left) * float64(time.Since(p.started)) / float64(p.past))
	}
	return left.Round(time.Second)
}

func (p *progress) done(b *bench, w workload, peers []*peer) {
	p.past += time.Duration(len(peers)) * w.lasts(b.duration, b.warmUp)
}

// say prints something that stays.
func (p *progress) say(format string, args ...any) {
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) end() {
	p.say("%d measurements in %s", p.count, time.Since(p.started).Round(time.Second))
}
