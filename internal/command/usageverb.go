package command

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
)

// addUsageVerb adds what tells who has spent what.
func addUsageVerb(parent *cobra.Command) {
	cmd := &cobra.Command{
		Use:   "usage [--json] [--models] [--budget NAME] [--client NAME] [--reset] [--config PATH] [--adapter NAME] [--address ADDRESS]",
		Short: "Tells what callers have spent, and forgives it",
		Long: `
Lists what the callers of each responses_budget have spent in the present
windows, all replicas together, and what their limits are. --models also lists
each caller's models. Cost is in the unit of the operator's prices.

With --reset and --client, the caller begins anew: what it has spent so far no
longer counts against its limits. Other replicas know it some seconds later: ask
one only, or it is taken off twice.
` + adminapi.About,
		Args: cobra.NoArgs,
		RunE: caddycmd.WrapCommandFuncForCobra(runUsage),
	}
	flags := cmd.Flags()
	flags.Bool("json", false, "Print JSON, for programs")
	flags.Bool("models", false, "Also list what was spent on each model")
	flags.String("budget", "", "The budget's name (default: all; with --reset: default)")
	flags.String("client", "", "The caller's name (default: all)")
	flags.Bool("reset", false, "Forgive the caller what it has spent")
	adminapi.AddFlags(cmd)
	parent.AddCommand(cmd)
}

func runUsage(flags caddycmd.Flags) (int, error) {
	budget, client := flags.String("budget"), flags.String("client")
	if flags.Bool("reset") {
		return resetUsage(flags, budget, client)
	}
	found, code, err := ask[adminapi.Budgets](flags, adminapi.BudgetsPath)
	if err != nil {
		return code, err
	}
	found.Budgets = slices.DeleteFunc(found.Budgets, func(b adminapi.Budget) bool { return budget != "" && b.Name != budget })
	if len(found.Budgets) == 0 {
		if budget != "" {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("there is no budget %q in the running config", budget)
		}
		return caddy.ExitCodeFailedStartup, errors.New("the running config has no responses_budget")
	}
	for i := range found.Budgets {
		b := &found.Budgets[i]
		b.Clients = slices.DeleteFunc(b.Clients, func(c adminapi.Spending) bool { return client != "" && c.Name != client })
	}
	if flags.Bool("json") {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "\t")
		err = encoder.Encode(found)
	} else {
		err = writeUsage(os.Stdout, found, flags.Bool("models"), time.Now())
	}
	return exitCodeOf(err), err
}

func resetUsage(flags caddycmd.Flags, budget, client string) (int, error) {
	if client == "" {
		return caddy.ExitCodeFailedStartup, errors.New("--reset: whose? Name the caller with --client")
	}
	if budget == "" {
		budget = "default"
	}
	if _, code, err := adminapi.Ask(flags, http.MethodPost, adminapi.SpendingPath(budget, client)+"/reset", nil); err != nil {
		return code, err
	}
	fmt.Printf("reset: budget %s, client %s\n", budget, client)
	return caddy.ExitCodeSuccess, nil
}

// writeUsage writes what is spent as a table for people.
func writeUsage(out io.Writer, found adminapi.Budgets, models bool, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BUDGET\tCLIENT\tPER\tREQUESTS\tTOKENS\tCOST\tINPUT\tCACHED\tOUTPUT\tREASONING\tESTIMATED\tUNDER WAY\tRESETS")
	for _, b := range found.Budgets {
		for _, c := range b.Clients {
			for _, w := range c.Windows {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", b.Name, visible(c.Name), w.Window,
					ofLimit(w.Requests, w.RequestsLimit), ofLimit(w.Tokens, w.TokensLimit), costOf(w.Cost, w.CostLimit),
					w.Input, w.Cached, w.Output, w.Reasoning, w.Estimated, c.UnderWay, relative(&w.Resets, now))
				for _, m := range w.Models {
					if models {
						fmt.Fprintf(table, "\t\t  %s\t%d\t%d\t%s\t\t\t\t\t\t\t\n", m.Model, m.Requests, m.Tokens, costOf(m.Cost, ""))
					}
				}
			}
		}
	}
	return table.Flush()
}

// visible is text that a terminal only shows: a caller's name may come from any
// authentication, and so from the caller.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
}

// costOf is what is spent, and of how much; "-" where no cost is counted.
func costOf(spent, limit json.Number) string {
	switch {
	case limit != "":
		return fmt.Sprintf("%s of %s", cmp.Or(spent, "0"), limit)
	case spent == "":
		return "-"
	}
	return spent.String()
}

// ofLimit is what is spent, and of how much.
func ofLimit(spent, limit int64) string {
	if limit == 0 {
		return fmt.Sprint(spent)
	}
	return fmt.Sprintf("%d of %d", spent, limit)
}
