package semel_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/semel-dev/semel"

// std stands for the standard library in the table of imports.
const std = "std"

// An importRule says what the packages under a path may import, and why no
// more. Imports point one way: cmd → gateway, console, relay, stores → semel.
type importRule struct {
	// path is relative to the module; "…/" at its end takes every package
	// below it. The first rule that fits counts.
	path string
	// allowed are "std", paths relative to the module, "." for the root, and
	// other modules, each with everything below it.
	allowed []string
	reason  string
}

var importRules = []importRule{
	{".", []string{std, "internal/crashpoint"},
		"importing the engine must pull in no driver, no router and no transport"},
	{"internal/crashpoint", []string{std},
		"the engine imports it"},
	{"internal/…/", []string{std, ".", "internal"},
		"it serves every package, so what it imports they all import"},
	{"sqlite/…/", []string{std, ".", "internal", "modernc.org/sqlite"},
		"a store knows its database and the engine's seam, never who talks to the engine"},
	{"storetest/…/", []string{std, ".", "internal"},
		"a suite that knew a store would test that store instead of the contract"},
	{"gateway/…/", []string{std, ".", "internal", "github.com/coder/websocket"},
		"HTTP in: it must work with every store, so it knows none; WebSocket is the one protocol that net/http lacks"},
	{"webhook/…/", []string{std, "."},
		"HTTP out to strangers: whatever it imported would stand where their answers come in; receivers import it to verify"},
	{"client/…/", []string{std, ".", "internal"},
		"HTTP out: a caller must not link a server or a store"},
	{"idempotency/…/", []string{std, ".", "internal"},
		"middleware for anybody's handlers: it must work with every store and router, so it knows none"},
	{"js/…/", []string{"embed"},
		"it holds files for browsers, and nothing that runs here"},
	{"console/…/", []string{std, ".", "gateway", "internal"},
		"a user interface on the engine: it must work with every store"},
	{"bench/…/", []string{std, ".", "sqlite", "gateway", "examples", "internal", "modernc.org/sqlite"},
		"it measures the engine, in process and over HTTP, beside the same statements on the bare driver"},
	{"examples/…/", []string{std, ".", "sqlite", "gateway", "client", "examples"},
		"an example holds only what a user of the module can import"},
	{"docs", nil,
		"it holds documents and their tests, and no code"},
	{"cmd/…/", []string{std, ".", "sqlite", "storetest", "gateway", "webhook", "client", "js", "console", "bench", "examples", "internal", "cmd",
		"github.com/spf13/cobra", "modernc.org/sqlite"},
		"it wires everything, and nobody imports it"},
}

// testImports may be used by tests besides what their package may import.
// A test may look at the whole module except cmd.
var testImports = []string{std, ".", "sqlite", "storetest", "gateway", "webhook", "client", "js", "idempotency", "console", "bench", "examples", "internal",
	"github.com/chromedp/chromedp", "github.com/chromedp/cdproto", "modernc.org/sqlite",
	// Clients of sockets, and the judge of the gateway's OpenAPI document.
	"github.com/coder/websocket", "github.com/getkin/kin-openapi"}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		path := relative(p.ImportPath)
		rule, ok := ruleFor(path)
		if !ok {
			t.Errorf("package %s has no rule in importRules: say what it may import, and why", path)
			continue
		}
		for _, imported := range p.Imports {
			if !allows(rule.allowed, imported) {
				t.Errorf("package %s imports %q; it may import %s: %s", path, imported, strings.Join(rule.allowed, ", "), rule.reason)
			}
		}
		inTests := testImports
		if strings.HasPrefix(path, "cmd/") {
			inTests = append([]string{"cmd", "github.com/spf13/cobra"}, testImports...)
		}
		for _, imported := range append(p.TestImports, p.XTestImports...) {
			if !allows(inTests, imported) {
				t.Errorf("a test of package %s imports %q; tests may import %s", path, imported, strings.Join(inTests, ", "))
			}
		}
	}
}

// TestImportRules shows that the table has teeth.
func TestImportRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		path, imported string
		want           bool
	}{
		{".", "net/http", true},
		{".", module + "/internal/crashpoint", true},
		{".", module + "/internal/leak", false},
		{".", module + "/sqlite", false},
		{".", "modernc.org/sqlite", false},
		{"sqlite", module, true},
		{"sqlite", "modernc.org/sqlite/lib", true},
		{"sqlite", "modernc.org/sqlitex", false},
		{"sqlite", module + "/gateway", false},
		{"gateway", module + "/sqlite", false},
		{"gateway", "github.com/spf13/cobra", false},
		{"client", module + "/gateway", false},
		{"webhook", module + "/gateway", false},
		{"storetest", module + "/sqlite", false},
		{"examples/bank", module + "/internal/leak", false},
		{"examples/bank", module + "/cmd/semel", false},
		{"cmd/semel", module + "/gateway", true},
	} {
		rule, ok := ruleFor(tt.path)
		if !ok {
			t.Fatalf("no rule for %s", tt.path)
		}
		if got := allows(rule.allowed, tt.imported); got != tt.want {
			t.Errorf("%s importing %q: allowed %v, want %v", tt.path, tt.imported, got, tt.want)
		}
	}
}

func ruleFor(path string) (importRule, bool) {
	for _, rule := range importRules {
		below, prefix := strings.CutSuffix(rule.path, "/…/")
		if path == below || prefix && strings.HasPrefix(path, below+"/") {
			return rule, true
		}
	}
	return importRule{}, false
}

func allows(allowed []string, imported string) bool {
	own := relative(imported)
	for _, a := range allowed {
		switch {
		case a == std:
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") {
				return true
			}
		case a == ".":
			if own == "." {
				return true
			}
		case own == a || strings.HasPrefix(own, a+"/"):
			return true
		}
	}
	return false
}

// relative shortens the module's own import paths: "." is the root package.
func relative(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

type listedPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	var stderr bytes.Buffer
	list := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []listedPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listedPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("decoding the output of go list: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) < len(importRules)/2 {
		t.Fatalf("go list found %d packages; is the test run in the module's root?", len(packages))
	}
	return packages
}
