package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// Outcome is what became of an exchange, in a word.
type Outcome string

// The outcomes of an exchange.
const (
	OK          Outcome = "ok"
	NoSubject   Outcome = "no_subject"  // the workload's own token could not be had
	Refused     Outcome = "refused"     // the token endpoint does not take it
	Unavailable Outcome = "unavailable" // the token endpoint did not answer, or not now
	Unusable    Outcome = "unusable"    // what it answered is of no use
)

// Outcomes are all of them.
var Outcomes = []Outcome{OK, NoSubject, Refused, Unavailable, Unusable}

// Failure is why there is no token. Nothing in it was sent by anybody but a
// few known words: an answer may quote a token.
type Failure struct {
	Outcome Outcome
	text    string
}

// Error implements error.
func (f *Failure) Error() string { return f.text }

func failed(outcome Outcome, format string, values ...any) *Failure {
	return &Failure{outcome, fmt.Sprintf(format, values...)}
}

func (f *Failure) outcome() Outcome {
	if f == nil {
		return OK
	}
	return f.Outcome
}

// MayPass reports whether the same may succeed in a moment.
func (f *Failure) MayPass() bool { return f.Outcome == Unavailable }

// unreached is the failure of a request that got no answer. Errors of the
// network and of TLS say what is wrong; others may quote what was sent.
func unreached(ctx context.Context, host string, err error) *Failure {
	var (
		network     *net.OpError
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		timeout     interface{ Timeout() bool }
	)
	if parent := (*url.Error)(nil); errors.As(err, &parent) {
		err = parent.Err
	}
	switch {
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return failed(Unavailable, "%s did not answer within %v", host, requestTimeout)
	case errors.As(err, &name):
		return failed(Unavailable, "%s: its name is not known (%s)", host, name.Err)
	case errors.As(err, &certificate):
		return failed(Unavailable, "%s: its certificate is not trusted (%v)", host, certificate.Err)
	case errors.As(err, &network):
		return failed(Unavailable, "%s cannot be reached (%s: %v)", host, network.Op, network.Err)
	}
	return failed(Unavailable, "%s broke the connection off, or does not speak HTTP there", host)
}

// oauthErrors are the codes that an error is known to have (RFC 6749 §5.2,
// RFC 8693 §2.2.2, and OpenAI's own). Others are not quoted.
var oauthErrors = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"invalid_target", "invalid_subject_token", "access_denied", "temporarily_unavailable", "server_error",
}

// answeredWith is the failure of a request that was answered with a status
// other than 200.
func answeredWith(host string, status int, code string) *Failure {
	text := fmt.Sprintf("%s answered with status %d", host, status)
	if code != "" {
		text += " " + code
	}
	switch {
	case status >= 300 && status < 400:
		return &Failure{Unusable, text + ", which is a redirect: that is not followed"}
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status >= 500:
		return &Failure{Unavailable, text}
	case status >= 400:
		return &Failure{Refused, text}
	}
	return &Failure{Unusable, text}
}
