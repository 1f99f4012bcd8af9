package semel_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The limits below keep every file readable from top to bottom and every
// function on a screen. A change that needs more wants another cut.
const (
	maxFileLines     = 600
	maxTestFileLines = 900
	maxFunctionLines = 100
	maxParameters    = 5
)

// vague are names of packages that say nothing about what is in them.
var vague = []string{"base", "common", "helper", "helpers", "lib", "manager", "managers", "misc", "mock", "mocks",
	"model", "models", "shared", "tool", "types", "util", "utils"}

// wellKnown are methods whose contract is their interface's.
var wellKnown = []string{"Error", "Unwrap", "Is", "As", "ServeHTTP", "Len", "Less", "Swap"}

// unfinished finds marks of work left open. The words are cut in two so that
// this file does not find itself.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

func TestHouseRules(t *testing.T) {
	t.Parallel()
	files := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		switch filepath.Ext(name) {
		case ".go", ".md", ".sql", ".js", ".css", ".html":
		default:
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, broken := range checkFile(filepath.ToSlash(path), src) {
			t.Error(broken)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Fatalf("only %d files were looked at; is the test run in the module's root?", files)
	}
}

// TestHouseRulesBite shows that every rule finds what it is for.
func TestHouseRulesBite(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\n", maxFunctionLines+1)
	for _, tt := range []struct{ name, path, src, want string }{
		{"long file", "a.go", "package a" + strings.Repeat("\n", maxFileLines+1), "lines"},
		{"long test file", "a_test.go", "package a" + strings.Repeat("\n", maxTestFileLines+1), "lines"},
		{"long function", "a.go", "package a\nfunc f() {" + long + "}", "a.go:2: function f has"},
		{"parameters", "a.go", "package a\n\nfunc f(a, b, c int, d, e, g string) {}", "a.go:3: function f has 6 parameters"},
		{"function without doc", "a.go", "package a\nfunc F() {}", "a.go:2: exported F has no doc comment"},
		{"method without doc", "a.go", "package a\nfunc (t *T[X]) F() {}", "a.go:2: exported T.F has no doc comment"},
		{"type without doc", "a.go", "package a\ntype T int", "exported T has no doc"},
		{"constant without doc", "a.go", "package a\nconst C = 1", "exported C has no doc"},
		{"vague package", "internal/util/a.go", "package util", "name \"util\" says nothing"},
		{"sleeping test", "a_test.go", "package a\nfunc f() {\n\ttime.Sleep(1)\n}", "a_test.go:3: time.Sleep in a test"},
		{"open end", "docs/a.md", "one\ntwo: TO" + "DO later\n", "docs/a.md:2: work left open"},
	} {
		got := strings.Join(checkFile(tt.path, []byte(tt.src)), "\n")
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: found %q, want it to contain %q", tt.name, got, tt.want)
		}
	}
	sound := "package a\n\n// F is fine.\nfunc F() {}\n\nfunc (t t) G() {}\n\n// C and D.\nconst (\n\tC = 1\n\tD = 2 // fine\n)\n\n" +
		"func (e *E) Error() string { return \"\" }\n"
	if got := checkFile("a.go", []byte(sound)); len(got) > 0 {
		t.Errorf("a sound file breaks rules: %q", got)
	}
}

// checkFile returns what breaks a rule in one file, each with its place.
func checkFile(path string, src []byte) []string {
	var broken []string
	for i, line := range strings.Split(string(src), "\n") {
		if unfinished.MatchString(line) {
			broken = append(broken, fmt.Sprintf("%s:%d: work left open: %s", path, i+1, strings.TrimSpace(line)))
		}
	}
	if filepath.Ext(path) != ".go" {
		return broken
	}
	most, test := maxFileLines, strings.HasSuffix(path, "_test.go")
	if test {
		most = maxTestFileLines
	}
	if n := strings.Count(string(src), "\n"); n > most {
		broken = append(broken, fmt.Sprintf("%s:%d: the file has %d lines; at most %d are taken", path, most, n, most))
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return append(broken, err.Error())
	}
	c := checker{set: set, path: path, test: test, broken: broken}
	c.checkNames(file)
	c.checkSleeps(file)
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			c.checkFunction(d)
		case *ast.GenDecl:
			c.checkGroup(d)
		}
	}
	return c.broken
}

type checker struct {
	set    *token.FileSet
	path   string
	test   bool
	public bool // exported names here are seen by other packages
	broken []string
}

func (c *checker) report(at token.Pos, format string, args ...any) {
	place := fmt.Sprintf("%s:%d: ", c.path, c.set.Position(at).Line)
	c.broken = append(c.broken, place+fmt.Sprintf(format, args...))
}

func (c *checker) checkNames(file *ast.File) {
	c.public = !c.test && file.Name.Name != "main"
	for _, part := range append(strings.Split(filepath.ToSlash(filepath.Dir(c.path)), "/"), file.Name.Name) {
		if slices.Contains(vague, part) {
			c.report(file.Name.Pos(), "the name %q says nothing about what is in the package", part)
			return
		}
	}
}

// checkSleeps: a test that sleeps is slow when it passes and wrong when the
// machine is slower than its author's.
func (c *checker) checkSleeps(file *ast.File) {
	if !c.test {
		return
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
				c.report(s.Pos(), "time.Sleep in a test: use testing/synctest, a channel, or a condition with a deadline")
			}
		}
		return true
	})
}

func (c *checker) checkFunction(d *ast.FuncDecl) {
	name := d.Name.Name
	exported := d.Name.IsExported()
	if d.Recv != nil {
		receiver := receiverName(d.Recv.List[0].Type)
		exported = exported && ast.IsExported(receiver) && !slices.Contains(wellKnown, name)
		name = receiver + "." + name
	}
	first, last := c.set.Position(d.Pos()).Line, c.set.Position(d.End()).Line
	if n := last - first + 1; n > maxFunctionLines && !c.test {
		c.report(d.Pos(), "function %s has %d lines; at most %d are taken", name, n, maxFunctionLines)
	}
	if n := d.Type.Params.NumFields(); n > maxParameters {
		c.report(d.Pos(), "function %s has %d parameters; at most %d are taken", name, n, maxParameters)
	}
	if c.public && exported && d.Doc == nil {
		c.report(d.Pos(), "exported %s has no doc comment", name)
	}
}

func receiverName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiverName(e.X)
	case *ast.IndexExpr:
		return receiverName(e.X)
	case *ast.IndexListExpr:
		return receiverName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func (c *checker) checkGroup(d *ast.GenDecl) {
	if !c.public || d.Doc != nil {
		return
	}
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil {
				c.report(s.Pos(), "exported %s has no doc comment", s.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && s.Doc == nil && s.Comment == nil {
					c.report(name.Pos(), "exported %s has no doc comment", name.Name)
				}
			}
		}
	}
}
