//go:build unix && !linux

package codex

import "errors"

const roleVariable = "CODEX_TEST_ROLE"

func playRole(string) error { return errors.New("there are no roles on this system") }
