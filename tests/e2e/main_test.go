//go:build unix

// Package e2e puts a real Caddy process with the gate in it through what the
// contract promises: attacks, streams, files, reloads, logs. The tests see
// only what a caller, an upstream, another user or an operator could see.
package e2e

import (
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }
