// Package process decides what others may do to this process, and how it runs:
// hardening, the umask, its threads and its memory. It knows nothing of the gate.
package process

import (
	"fmt"
	"os"
	"strings"
)

// Harden makes it harder to get the key out of this process: no core
// dumps, no reading of its memory by other processes of the same user where
// the system allows that, and no loader variables for processes it starts. It
// can be called again. Its limits: Go's runtime copies strings as it likes, so
// the key cannot be wiped from memory; and root reads everything.
func Harden() error {
	dropLoaderVariables()
	if err := hardenPlatform(); err != nil {
		return fmt.Errorf("harden_process: %w", err)
	}
	return nil
}

// dropLoaderVariables removes the variables by which a dynamic loader is told
// to run foreign code. They no longer matter to this process; they would to
// processes that Caddy starts.
func dropLoaderVariables() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "DYLD_") {
			_ = os.Unsetenv(name)
		}
	}
}
