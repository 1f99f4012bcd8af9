package main

import (
	"strings"
	"testing"
)

// commandLine checks exit codes, and that help teaches: it says what a command
// is for, shows it in use, and leaves nothing undocumented.
func commandLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args string
		code int
		want string // in what is printed
	}{
		{"--help", exitOK, "semel demo"},
		{"help verify", exitOK, "The data is not changed"},
		{"version", exitOK, "semel "},
		{"completion bash", exitOK, "bash completion"},
		{"", exitUsage, "a command is missing"},
		{"nonsense", exitUsage, `unknown command "nonsense"`},
		{"serve", exitUsage, `"data" not set`},
		{"serve --data", exitUsage, "flag needs an argument"},
		{"serve --data x y", exitUsage, "unknown command"},
		{"verify", exitUsage, "accepts 1 arg"},
		{"demo --nonsense", exitUsage, `Run "semel demo --help"`},
		{"verify /no/such/file", exitFailed, "/no/such/file"},
	} {
		code, out, errs := execute(t, strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(out+errs, tt.want) {
			t.Errorf("semel %s: %d %s%s; want %d and %q", tt.args, code, out, errs, tt.code, tt.want)
		}
	}
	root, _ := newRoot()
	for _, cmd := range root.Commands() {
		if cmd.Hidden || !strings.Contains("demo serve call verify version", cmd.Name()) {
			continue
		}
		code, out, _ := execute(t, cmd.Name(), "--help")
		for _, part := range []string{"Usage:", "Examples:", "semel " + cmd.Name(), "Flags:"} {
			if code != exitOK || !strings.Contains(out, part) {
				t.Errorf("the help of %s has no %q", cmd.Name(), part)
			}
		}
		for i, line := range strings.Split(cmd.Long+"\n"+cmd.Example, "\n") {
			if len(line) > 80 {
				t.Errorf("the help of %s has %d characters in line %d; a terminal has 80", cmd.Name(), len(line), i+1)
			}
		}
	}
}
