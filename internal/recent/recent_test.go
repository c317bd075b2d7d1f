package recent

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestAFloodOfOneKindPushesOutNoOther(t *testing.T) {
	var e Entries[string]
	at := time.Unix(0, 0)
	add := func(kind, what string) {
		at = at.Add(time.Second)
		e.Add(kind, at, what)
	}
	add("rare", "the page's")
	for i := range 10 * PerKind {
		add("flood", fmt.Sprint(i))
	}
	add("rare", "another page's")
	want := []string{"the page's"}
	for i := 9 * PerKind; i < 10*PerKind; i++ {
		want = append(want, fmt.Sprint(i))
	}
	want = append(want, "another page's")
	if got := e.All(); !slices.Equal(got, want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

func TestEntriesOfManyAtOnceAreBounded(t *testing.T) {
	var e Entries[int]
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 5 * PerKind {
				e.Add("kind", time.Now(), i)
				e.All()
			}
		})
	}
	all.Wait()
	if got := len(e.All()); got != PerKind {
		t.Errorf("%d are kept, want %d", got, PerKind)
	}
}
