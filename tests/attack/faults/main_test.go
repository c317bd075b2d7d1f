//go:build unix

// Package faults lets everything around the gate fail: the upstream in every
// way it can, the disk, the table of open files, and the gate's own process in
// the middle of its work. What must hold: what was cut off looks cut off, no
// token is valid that should not be, no file is loose or partial, nothing hangs,
// and when the fault is over the gate works.
package faults

import (
	"os"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

// noSecretIn fails the test if a token or the key is in text.
func noSecretIn(t *testing.T, what, text string, tokens ...string) {
	t.Helper()
	for _, secret := range append(tokens, gatetest.OperatorKey) {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("%s has the secret %.6s…", what, secret)
		}
	}
}
