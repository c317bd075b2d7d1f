package dump

import (
	"fmt"
	"io/fs"
	"os"
	"time"
)

const (
	// maxDirectory is what all files in a directory may take, in bytes.
	maxDirectory = 1 << 30

	// minFree is what is left of the file system, in bytes; or a twentieth of
	// it, if that is less.
	minFree = 1 << 30

	// countInterval is how often at most a full directory is counted anew.
	countInterval = time.Second

	blockSize = 4 << 10 // what the smallest file takes
)

// quota bounds what dumps take. Callers decide how much is dumped; the disk is
// everybody's. Only the writer uses it.
type quota struct {
	limit   int64
	space   func(path string) (free, total uint64, known bool)
	used    int64     // by the files in the directory
	counted time.Time // when it was last looked at; zero: never
}

// checkRoom refuses size bytes more where dumps have had their share.
func (d *directory) checkRoom(root *os.Root, size int64) error {
	if d.counted.IsZero() || d.used+size > d.limit && time.Since(d.counted) >= countInterval {
		used, err := usedIn(root)
		if err != nil {
			return err
		}
		d.used, d.counted = used, time.Now()
	}
	if d.used+size > d.limit {
		return fmt.Errorf("the files in %s take %d MiB, of %d; move or delete some", d.path, d.used>>20, d.limit>>20)
	}
	free, total, known := d.space(d.path)
	if keep := min(minFree, total/20); known && free < keep+uint64(size) {
		return fmt.Errorf("no space left on device for dumps: %d MiB are free, and %d are kept for others", free>>20, keep>>20)
	}
	return nil
}

// usedIn is what the files in a directory take.
func usedIn(root *os.Root) (used int64, err error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil { // else it has just been deleted
			used += blocks(info.Size())
		}
	}
	return used, err
}

func sizeOf(files []dumpFile) (size int64) {
	for _, file := range files {
		size += blocks(int64(len(file.content)))
	}
	return size
}

// blocks is what a file of a size takes.
func blocks(size int64) int64 { return max(1, (size+blockSize-1)/blockSize) * blockSize }
