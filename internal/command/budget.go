package command

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// budgetOptions are what may be spent, and where it is counted; nil: nothing is
// counted.
type budgetOptions struct {
	handler object
	dir     string
}

// budgetFlags reads --budget and --budget-dir. The rules are those of ruleFlags.
func budgetFlags(budgets []string, rules object, dir string) (*budgetOptions, error) {
	if len(budgets) == 0 && len(rules) == 0 {
		if dir != "" {
			return nil, errors.New("--budget-dir says where is counted what is spent; it needs --budget or a rule such as --allow-model")
		}
		return nil, nil
	}
	handler := object{"handler": "responses_budget", "name": commandGate}
	maps.Copy(handler, rules)
	var windows []object
	for _, flag := range budgets {
		words := strings.Fields(flag)
		n, err := int64(0), error(nil)
		if len(words) > 0 {
			n, err = strconv.ParseInt(words[0], 10, 64)
		}
		switch {
		case err == nil && n > 0 && len(words) == 3 && words[1] == "at" && words[2] == "once":
			if handler["concurrent"] != nil {
				return nil, fmt.Errorf("--budget %q: that stands there twice", flag)
			}
			handler["concurrent"] = n
		case err == nil && n > 0 && len(words) == 4 && (words[1] == "tokens" || words[1] == "requests") && words[2] == "per":
			if windows, err = addLimit(windows, words[3], words[1], n); err != nil {
				return nil, fmt.Errorf("--budget %q: %w", flag, err)
			}
		case len(words) == 4 && words[1] == "cost" && words[2] == "per" && areAmounts(words[:1]):
			if windows, err = addLimit(windows, words[3], words[1], json.Number(words[0])); err != nil {
				return nil, fmt.Errorf("--budget %q: %w", flag, err)
			}
		default:
			return nil, fmt.Errorf("--budget %q: write such as \"200000 tokens per 24h\", \"50 requests per 1h\", \"20 cost per 24h\" or \"4 at once\"", flag)
		}
	}
	if windows != nil {
		handler["per"] = windows
	}
	dir, err := budgetDir(dir)
	return &budgetOptions{handler, dir}, err
}

// addLimit adds a limit to that of the same window, if there is one.
func addLimit(windows []object, window, unit string, n any) ([]object, error) {
	for _, w := range windows {
		if w["window"] != window {
			continue
		}
		if w[unit] != nil {
			return nil, errors.New("that stands there twice")
		}
		w[unit] = n
		return windows, nil
	}
	return append(windows, object{"window": window, unit: n}), nil
}

// budgetDir is where the counts are kept: in a directory of the user's that
// lasts, so that a new launch does not begin at zero.
func budgetDir(dir string) (string, error) {
	if dir == "" {
		if cmp.Or(os.Getenv("XDG_DATA_HOME"), os.Getenv("HOME"), os.Getenv("AppData"), os.Getenv("home")) == "" {
			return "", errors.New("--budget: there is no home directory to keep the counts in; name one with --budget-dir")
		}
		dir = filepath.Join(caddy.AppDataDir(), "responses-proxy")
	}
	return filepath.Abs(dir)
}
