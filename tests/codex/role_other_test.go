//go:build unix && !linux

package codex

import "github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"

var roles []gatetest.Role
