//go:build linux

package cotenant

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// read takes a text and directories, and reports the files below them that it
// can read and that have the text in them.
func read(args []string) error {
	found := []string{}
	for _, dir := range args[1:] {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return nil // it may not look there
			}
			if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), args[0]) {
				found = append(found, path)
			}
			return nil
		})
	}
	<-untilEnd()
	return report(found)
}
