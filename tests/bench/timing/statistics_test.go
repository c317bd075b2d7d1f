//go:build unix

package timing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// sample is how long one answer to a wrong token took.
type sample struct {
	right int     // how many of the token's leading characters were right
	nanos float64 // wall time
}

// verdict is what the samples tell about the number of right characters.
type verdict struct {
	samples   int
	slope     float64 // nanoseconds for each right character
	slopeT    float64 // the slope in units of its standard error
	rankZ     float64 // Mann-Whitney: few right characters against many, in standard deviations
	smallest  float64 // the least slope that would have been told apart, in nanoseconds
	medianFew float64
}

// threshold is how many standard errors count as a difference. Chance alone
// gets there once in 150 000 runs; dudect uses the same.
const threshold = 4.5

// toldApart reports whether answers betray how much of a token was right.
func (v verdict) toldApart() bool { return v.side() != 0 }

// side is 1 if they take longer the more is right, -1 if they take less long,
// and 0 if that cannot be told.
func (v verdict) side() int {
	for _, deviations := range []float64{v.slopeT, v.rankZ} {
		if deviations > threshold {
			return 1
		} else if deviations < -threshold {
			return -1
		}
	}
	return 0
}

func (v verdict) String() string {
	said := "cannot be told apart"
	if v.toldApart() {
		said = "CAN BE TOLD APART"
	}
	return fmt.Sprintf("%s: %d answers, median %.0f ns; per right character %+.3f ns (t = %+.1f), few against many z = %+.1f; "+
		"a difference of %.3f ns per character would have shown", said, v.samples, v.medianFew, v.slope, v.slopeT, v.rankZ, v.smallest)
}

// judge compares the samples twice: by a regression of the time on the number
// of right characters, and by ranks, which no outlier moves. The slowest tenth
// is left out first: interrupts and collections, which know nothing of tokens.
func judge(samples []sample) verdict {
	byTime := slices.Clone(samples)
	slices.SortFunc(byTime, func(a, b sample) int {
		if a.nanos < b.nanos {
			return -1
		} else if a.nanos > b.nanos {
			return 1
		}
		return 0
	})
	kept := byTime[:len(byTime)*9/10]
	v := verdict{samples: len(samples), medianFew: kept[len(kept)/2].nanos}
	v.slope, v.slopeT, v.smallest = regress(kept)
	v.rankZ = mannWhitney(byTime)
	return v
}

// regress is ordinary least squares of nanos on right.
func regress(samples []sample) (slope, t, smallest float64) {
	n, sumX, sumY := float64(len(samples)), 0.0, 0.0
	for _, s := range samples {
		sumX, sumY = sumX+float64(s.right), sumY+s.nanos
	}
	meanX, meanY := sumX/n, sumY/n
	sxx, sxy := 0.0, 0.0
	for _, s := range samples {
		dx := float64(s.right) - meanX
		sxx, sxy = sxx+dx*dx, sxy+dx*(s.nanos-meanY)
	}
	slope = sxy / sxx
	residuals := 0.0
	for _, s := range samples {
		r := s.nanos - meanY - slope*(float64(s.right)-meanX)
		residuals += r * r
	}
	deviation := math.Sqrt(residuals / (n - 2) / sxx)
	return slope, slope / deviation, threshold * deviation
}

// mannWhitney compares the ranks of samples with few right characters (up to
// 10) with those of samples with many (from 32). They are sorted by time.
func mannWhitney(sorted []sample) float64 {
	var few, many, rankSum float64
	rank := 0.0
	for start := 0; start < len(sorted); {
		end, fewHere, manyHere := start, 0.0, 0.0
		for ; end < len(sorted) && sorted[end].nanos == sorted[start].nanos; end++ {
			if sorted[end].right <= 10 {
				fewHere++
			} else if sorted[end].right >= 32 {
				manyHere++
			}
		}
		tied := fewHere + manyHere
		rankSum += manyHere * (rank + (tied+1)/2) // ties share the mean of their ranks
		rank, few, many, start = rank+tied, few+fewHere, many+manyHere, end
	}
	u := rankSum - many*(many+1)/2
	return (u - few*many/2) / math.Sqrt(few*many*(few+many+1)/12)
}

// The method itself, on made-up times: it finds what is there, and nothing else.
func TestTheStatisticsTellALeakFromNoise(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	made := func(perCharacter float64) []sample {
		var samples []sample
		for range 2000 {
			for right := range 43 {
				nanos := 2000 + perCharacter*float64(right) + 300*random.NormFloat64()
				if random.IntN(20) == 0 {
					nanos += 100_000 * random.Float64() // an interrupt
				}
				samples = append(samples, sample{right, math.Round(nanos)})
			}
		}
		return samples
	}
	if v := judge(made(1)); !v.toldApart() || v.slope < 0.6 || v.slope > 1.4 || v.rankZ < threshold {
		t.Errorf("1 ns per character: %v", v)
	}
	if v := judge(made(-1)); !v.toldApart() || v.slope > -0.6 || v.rankZ > -threshold {
		t.Errorf("-1 ns per character: %v", v)
	}
	if v := judge(made(0)); v.toldApart() || v.smallest > 1 {
		t.Errorf("nothing: %v", v)
	}
}
