//go:build unix

// Package codex puts "caddy responses-proxy" before the program that it exists
// for: the released Codex CLI, and beside the proxy that it replaces, "codex
// responses-api-proxy" of the same release. There is no account and no network
// but loopback; a fake upstream stands in for the OpenAI API.
//
// The CLI is found through CODEX_BINARY, on PATH, or in
// tests/codex/node_modules. Without it, the tests that need it are skipped,
// or fail if CI or REQUIRE_CODEX is set.
package codex

import (
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m, roles...)) }
