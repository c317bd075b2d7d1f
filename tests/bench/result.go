//go:build unix

package main

import (
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// result is one measurement: one peer, one workload, one round. It is a line
// of the JSON output.
type result struct {
	Workload string             `json:"workload"`
	Peer     string             `json:"peer"`
	Round    int                `json:"round"`
	Figures  map[string]float64 `json:"figures,omitempty"`
	Failure  string             `json:"failure,omitempty"` // why there are no figures
	Printed  string             `json:"printed,omitempty"` // by the peer, if something went wrong
}

// The names of figures. Times are in milliseconds unless they say otherwise.
const (
	perSecond      = "requests_per_second"
	mibPerSecond   = "mib_per_second"
	latency        = "latency" // and the next two with _p50, _p90, _p99, _max
	firstEvent     = "first_event"
	eventDelay     = "event_delay"
	cpuPerRequest  = "cpu_us_per_request"
	cpuPerEvent    = "cpu_us_per_event"
	rssIdle        = "rss_idle_mib"
	rssPeak        = "rss_peak_mib"
	kibPerStream   = "rss_kib_per_stream"
	threadsAtMost  = "threads"
	requestsDone   = "requests"
	eventsReceived = "events"
	errorsSeen     = "errors"
	reconnects     = "reconnects"
	lostEvents     = "lost_events"
	truncated      = "truncated_streams"
	hung           = "hung_connections"
)

// timings counts durations.
type timings struct{ *hdrhistogram.Histogram }

// newTimings takes durations of 1 microsecond to 2 minutes, to three digits.
func newTimings() timings { return timings{hdrhistogram.New(1, 120_000_000, 3)} }

func (t timings) add(d time.Duration) {
	_ = t.RecordValue(min(max(d.Microseconds(), 1), 120_000_000))
}

// into puts the percentiles into figures, in milliseconds.
func (t timings) into(figures map[string]float64, name string) {
	if t.TotalCount() == 0 {
		return
	}
	for suffix, percentile := range map[string]float64{"_p50": 50, "_p90": 90, "_p99": 99, "_max": 100} {
		figures[name+suffix] = float64(t.ValueAtQuantile(percentile)) / 1000
	}
}

// medianOf is the middle value, or the mean of the two.
func medianOf(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	values = slices.Sorted(slices.Values(values))
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle], true
	}
	return (values[middle-1] + values[middle]) / 2, true
}

// results are those of a whole run.
type results []result

// values are what all rounds say of one figure.
func (rs results) values(workload, peer, figure string) []float64 {
	var found []float64
	for _, r := range rs {
		if v, ok := r.Figures[figure]; ok && r.Workload == workload && r.Peer == peer {
			found = append(found, v)
		}
	}
	return found
}

// median is the median of a figure over the rounds.
func (rs results) median(workload, peer, figure string) (float64, bool) {
	return medianOf(rs.values(workload, peer, figure))
}

// sum is the sum of a figure over the rounds: for what must never happen.
func (rs results) sum(workload, peer, figure string) float64 {
	var sum float64
	for _, v := range rs.values(workload, peer, figure) {
		sum += v
	}
	return sum
}

// ratio is the median, over the rounds, of a peer's figure to another's.
func (rs results) ratio(workload, figure, peer, to string) (float64, bool) {
	other := map[int]float64{}
	for _, r := range rs {
		if v, ok := r.Figures[figure]; ok && r.Workload == workload && r.Peer == to {
			other[r.Round] = v
		}
	}
	var ratios []float64
	for _, r := range rs {
		v, ok := r.Figures[figure]
		if ok && r.Workload == workload && r.Peer == peer && other[r.Round] > 0 {
			ratios = append(ratios, v/other[r.Round])
		}
	}
	return medianOf(ratios)
}
