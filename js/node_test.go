package js_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestNode runs the tests that are written in JavaScript, against a real
// server. Without Node it is skipped loudly, except in CI.
func TestNode(t *testing.T) {
	node := findNode(t)
	b := open(t)
	files, err := filepath.Glob("test/*.test.js")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests were found: %v", err)
	}
	command := exec.CommandContext(t.Context(), node, append([]string{"--test"}, files...)...)
	command.Env = append(os.Environ(), "SEMEL_TEST_SERVER="+b.url)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "# pass ") && !strings.Contains(string(out), "ℹ pass ") {
		t.Errorf("node ran no tests:\n%s", out)
	}
}

const oldestNode = 20

func findNode(t *testing.T) string {
	t.Helper()
	how := "no Node in PATH. Install version 20 or later (Debian: apt install nodejs; macOS: brew install node) to test the JavaScript client in it"
	if path, err := exec.LookPath("node"); err == nil {
		out, err := exec.CommandContext(t.Context(), path, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		version := strings.TrimSpace(string(out))
		major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
		if n, err := strconv.Atoi(major); err == nil && n >= oldestNode {
			return path
		}
		how = fmt.Sprintf("the Node in PATH is %s; the client needs version %d or later", version, oldestNode)
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(how)
	}
	fmt.Fprintln(os.Stderr, "SKIPPED: the JavaScript client was not tested in Node: "+how)
	t.Skip(how)
	return ""
}
