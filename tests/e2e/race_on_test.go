//go:build race

package e2e

// raceEnabled makes Caddy be built with the race detector when the tests are.
const raceEnabled = true
