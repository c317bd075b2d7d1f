//go:build unix

// Package malformed sends the gate what no HTTP library would: requests that
// parsers read in different ways. Whatever becomes of them, the upstream sees
// only what the gate would have let through, in a form that every parser reads
// alike, with the operator's credential and no other.
package malformed

import (
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }
