package command

import (
	"os"
	"path/filepath"
	"strings"
)

// flagPath is the path that a flag names, as the gate takes one: with a
// separator in it, for a name alone could be a key by mistake. Codex starts its
// auth.command without a shell, so that nobody has expanded a ~ before.
func flagPath(flag string) string {
	if rest, ok := strings.CutPrefix(flag, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return home + "/" + rest
		}
	}
	if flag == "" || strings.ContainsRune(flag, '/') || strings.ContainsRune(flag, filepath.Separator) {
		return flag
	}
	return "." + string(filepath.Separator) + flag
}
