//go:build race

package gatetest

// raceEnabled makes Caddy be built with the race detector when the tests are.
const raceEnabled = true
