//go:build unix

// Package operate tests what an operator does with a gate that runs for
// months: reloads in every way Caddy knows, clients that come and go, other
// users, budgets.
package operate

import (
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }
