package infofile

import (
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func mustHold(t *testing.T, f *File) *Hold {
	t.Helper()
	h, err := f.Hold()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAPlaceIsHeldByOneAtATime(t *testing.T) {
	dir := safeDir(t)
	path := filepath.Join(dir, "info.json")
	first := newFile(t, path, "")
	held := mustHold(t, first)
	mustWrite(t, first, sampleInfo()) // (replaces the file, and not the lock)
	if _, err := newFile(t, path, "").Hold(); !errors.Is(err, ErrInUse) {
		t.Fatalf("a second one: %v", err)
	}
	other := mustHold(t, newFile(t, filepath.Join(dir, "other.json"), ""))
	if err := errors.Join(held.Destruct(), other.Destruct()); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, "info.json") // no lock is left
	if err := mustHold(t, newFile(t, path, "")).Destruct(); err != nil {
		t.Error(err)
	}
}

func TestAPlaceInADirectoryThatIsMissingIsHeldToo(t *testing.T) {
	path := filepath.Join(safeDir(t), "a", "b", "info.json")
	held := mustHold(t, newFile(t, path, ""))
	if _, err := newFile(t, path, "").Hold(); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	if err := held.Destruct(); err != nil {
		t.Error(err)
	}
}

// Each removes the lock as it goes: whoever then locks what has no name any more
// must not take that for the place.
func TestStartsInTheSameInstantMeet(t *testing.T) {
	path := filepath.Join(safeDir(t), "info.json")
	var inside atomic.Int32
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			f := newFile(t, path, "")
			for range 200 {
				held, err := f.Hold()
				if errors.Is(err, ErrInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) > 1 {
					t.Error("two hold the place")
				}
				inside.Add(-1)
				if err := held.Destruct(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}
