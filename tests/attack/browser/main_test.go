//go:build unix

// Package browser attacks the gate from web pages in a real Chromium: with
// everything by which a page makes a browser send a request, with and without
// the token. The same attacks go to "codex responses-api-proxy", which the
// gate replaces, and to Caddy's reverse_proxy alone. There they succeed.
//
// Chromium is found on PATH, or through CHROMIUM_BINARY. Without it, the tests
// are skipped, or fail if CI or REQUIRE_BROWSER is set.
package browser

import (
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }
