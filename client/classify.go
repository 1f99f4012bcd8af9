package client

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"syscall"
	"unicode"

	"github.com/semel-dev/semel"
)

// transportError describes a try that brought no answer.
func transportError(err error) *Error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // without method and URL, which the caller knows
	}
	return &Error{Class: classify(err), Message: steady(err), Err: err}
}

func classify(err error) Class {
	var (
		timeout interface{ Timeout() bool }
		dns     *net.DNSError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		alert   tls.AlertError
	)
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return ClassTimeout
	case errors.As(err, &dns):
		return ClassDNS
	case errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert), errors.Is(err, http.ErrSchemeMismatch):
		return ClassTLS
	case errors.Is(err, syscall.ECONNREFUSED):
		return ClassRefused
	case isAny(err, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed):
		return ClassReset
	// net/http exports no type for these two.
	case strings.Contains(err.Error(), "server closed idle connection"):
		return ClassReset
	case strings.Contains(err.Error(), "malformed HTTP"):
		return ClassMalformed
	}
	return ClassConnection
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// source matches the near end of a connection in the texts of package net,
// such as "127.0.0.1:53412->": a port that differs from try to try.
var source = regexp.MustCompile(`\S*->`)

// steady returns the error's text without what changes from try to try.
func steady(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		// Its text names the resolver that happened to be asked.
		reason := "failed"
		switch {
		case dns.IsNotFound:
			reason = "no such host"
		case dns.IsTimeout:
			reason = "timeout"
		}
		return clean(fmt.Sprintf("lookup %s: %s", dns.Name, reason))
	}
	switch err {
	case io.EOF:
		return "connection closed before the answer"
	case io.ErrUnexpectedEOF:
		return "connection closed within the answer"
	}
	return clean(source.ReplaceAllString(err.Error(), ""))
}

// clean makes a stranger's text fit for an error and a line of a log.
func clean(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// problem is a problem+json body (RFC 9457), as the gateway writes it.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	Operation string `json:"operation"`
}

// sentinels maps problem types to the root package's errors, so that callers
// test for the same ones on both sides of the wire.
var sentinels = map[string]error{
	"idempotency-key-missing": semel.ErrInvalid,
	"idempotency-key-invalid": semel.ErrInvalid,
	"idempotency-key-reused":  semel.ErrKeyReused,
	"idempotency-key-expired": semel.ErrKeyExpired,
	"malformed-body":          semel.ErrInvalid,
	"invalid-command":         semel.ErrInvalid,
	"unknown-command":         semel.ErrUnknownCommand,
	"operation-not-found":     semel.ErrNotFound,
	"overloaded":              semel.ErrOverloaded,
	"unavailable":             semel.ErrUnavailable,
	"outcome-unknown":         semel.ErrOutcomeUnknown,
}

// answerError returns what is wrong with an answer; nil for 2xx. Three types
// of problem are outcomes, whatever their status.
func (s *sending) answerError(a *answer) error {
	if a.status >= 200 && a.status < 300 {
		return nil
	}
	p := a.problem()
	kind := path.Base(p.Type)
	if id, err := semel.ParseID(path.Base(p.Operation)); err == nil {
		s.reply.Operation = id.String()
	}
	switch kind {
	case "operation-rejected":
		return s.rejected(semel.Rejection{Code: p.Code, Reason: p.Detail, Status: a.status})
	case "operation-failed":
		return s.failed(semel.Failed, p.Code, p.Detail)
	case "operation-canceled":
		return s.failed(semel.Canceled, p.Code, p.Detail)
	}
	e := &Error{Class: statusClass(a.status), Status: a.status, Type: kind, Err: sentinels[kind], after: a.after}
	switch {
	case kind == "." || kind == "/" || kind == "about:blank":
		e.Type = ""
		e.Message = fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	case p.Detail != "":
		e.Message = fmt.Sprintf("%d %s: %s", a.status, clean(kind), clean(p.Detail))
	default:
		e.Message = fmt.Sprintf("%d %s", a.status, clean(kind))
	}
	return e
}

func statusClass(status int) Class {
	switch {
	case status >= 500:
		return ClassServer
	case status == http.StatusTooManyRequests:
		return ClassThrottled
	case status == http.StatusRequestTimeout:
		return ClassTimeout
	case status == http.StatusUnauthorized:
		return ClassUnauthorized
	case status == http.StatusForbidden:
		return ClassForbidden
	case status == http.StatusConflict:
		return ClassConflict
	case status == http.StatusGone:
		return ClassExpired
	case status == http.StatusRequestEntityTooLarge:
		return ClassTooLarge
	case status == http.StatusUnprocessableEntity:
		return ClassReused
	}
	return ClassInvalid
}

func (a *answer) problem() problem {
	var p problem
	if kind, _, _ := mime.ParseMediaType(a.header.Get("Content-Type")); kind == "application/problem+json" {
		if json.Unmarshal(a.body, &p) != nil {
			return problem{} // the status says enough
		}
	}
	return p
}
