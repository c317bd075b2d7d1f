//go:build unix

// Package observe looks at a running gate as its operator does: at metrics,
// alerts and the audit trail.
package observe

import (
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }
