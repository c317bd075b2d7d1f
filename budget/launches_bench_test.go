package budget

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// What a process reads every 5 seconds where many have been before it in a
// window: each has left a record.
func BenchmarkTheRecordsOfFormerLaunches(b *testing.B) {
	for _, launches := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprint(launches), func(b *testing.B) {
			folder := &certmagic.FileStorage{Path: filepath.Join(b.TempDir(), "counts")}
			record, err := json.Marshal(spending{
				"ci": {Requests: 3, Input: 1000, Output: 100}, "ci" + modelMark + "gpt-5": {Requests: 3, Input: 1000, Output: 100},
			})
			if err != nil {
				b.Fatal(err)
			}
			former := time.Now().Add(-time.Minute)
			for range launches {
				path := folder.Filename((&book{name: "default", launch: rand.Text()}).key(window{"1d", day}.slot(time.Now())))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(path, record, 0o600); err != nil {
					b.Fatal(err)
				}
				if err := os.Chtimes(path, former, former); err != nil {
					b.Fatal(err)
				}
			}
			began := time.Now()
			now, err := openBook(folder, "default", zap.NewNop())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = now.Destruct() }()
			b.Logf("a start takes %s", time.Since(began))
			b.ReportAllocs()
			for b.Loop() {
				if err := now.readAll(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
