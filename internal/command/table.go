package command

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
)

// writeClients writes the clients as a table for people.
func writeClients(out io.Writer, status adminapi.Gates) error {
	now := time.Now()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "GATE\tCLIENT\tACCESS\tTOKEN\tAGE\tREQUESTS\tLAST USED\tWEBSOCKETS\tROTATES\tEXPIRES\tSERVER-INFO")
	for _, gate := range status.Gates {
		for _, c := range gate.Clients {
			age := "-"
			if c.TokenAgeSeconds != nil {
				age = roughly(time.Duration(*c.TokenAgeSeconds) * time.Second)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%s\t%s\t%s\n", gate.Name, c.Name, c.State, c.Kind, age,
				c.AcceptedRequests, relative(c.LastUsed, now), c.OpenWebSockets, relative(c.NextRotation, now), relative(c.Expires, now),
				orDash(c.ServerInfo))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, gate := range status.Gates {
		if gate.Storage != nil && gate.Storage.Error != "" {
			if _, err := fmt.Fprintf(out, "gate %s, shared clients: %s\n", gate.Name, gate.Storage.Error); err != nil {
				return err
			}
		}
		for _, c := range gate.Clients {
			if c.Error == "" {
				continue
			}
			if _, err := fmt.Fprintf(out, "gate %s, client %s: %s\n", gate.Name, c.Name, c.Error); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeRefusals writes the last refusals as a table for people.
func writeRefusals(out io.Writer, last adminapi.Refusals) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TIME\tCLIENT\tFROM\tMETHOD\tPATH\tCODE\tSTATUS")
	for _, r := range last.Refusals {
		from := r.RemoteAddr
		if r.ClientIP != "" {
			from = r.ClientIP + " by " + from
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", r.Time.Local().Format(time.DateTime), orDash(r.Client), from, r.Method, r.Path, r.Code, r.Status)
	}
	return table.Flush()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// relative says how far a time is from now.
func relative(t *time.Time, now time.Time) string {
	switch {
	case t == nil:
		return "-"
	case t.After(now):
		return "in " + roughly(t.Sub(now))
	}
	return roughly(now.Sub(*t)) + " ago"
}

// roughly is a duration in one unit, the largest that gives two or more.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
