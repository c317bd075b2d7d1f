// Package follow answers one question: has this file changed, and is what is
// in it whole?
package follow

import (
	"context"
	"io/fs"
	"os"
	"time"
)

// Interval is how often a file is looked at. A file that is written in place
// is taken up at the second look, well within two seconds.
const Interval = 750 * time.Millisecond

// File is a file that is followed.
type File struct {
	Path string
	Seen fs.FileInfo // the file as it was when it was last read

	// Changed is called when the file has changed and is whole. It reads the
	// file and says which version that was, or has failed; then it is called
	// again for the next version.
	Changed func() (fs.FileInfo, error)

	// Lost is called once when the file cannot be looked at any more.
	Lost func(error)

	pending fs.FileInfo // the file as it was when it was last seen to differ
}

// Follow looks at the file until ctx is done. A file system may hang: nobody
// should wait for the end of Follow.
func (f *File) Follow(ctx context.Context) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.look(ctx)
		}
	}
}

func (f *File) look(ctx context.Context) {
	info, err := os.Stat(f.Path)
	switch {
	case ctx.Err() != nil: // it hung, and what it says is of no use any more
		return
	case err != nil:
		if f.Seen != nil {
			f.Seen, f.pending = nil, nil
			f.Lost(err)
		}
		return
	case SameVersion(info, f.Seen):
		f.pending = nil
		return
	}
	// A file that is written in place passes through states that look like a
	// shorter key. Wait until it has stayed the same for one interval. A file
	// that was renamed into place is whole.
	inPlace := f.Seen == nil || os.SameFile(info, f.Seen)
	if inPlace && !SameVersion(info, f.pending) {
		f.pending = info
		return
	}
	f.pending = nil
	if f.Seen, err = f.Changed(); err != nil {
		f.Seen = info
	}
}

// SameVersion reports whether a file has not been written to between two looks.
func SameVersion(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) &&
		a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}
