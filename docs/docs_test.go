// Package docs_test holds the documents to what the code does: programs are
// built, quoted code is compared with its source, links and anchors lead
// somewhere, and the tables are those of the code.
//
// A go block in a document is one of three things:
//
//   - a whole program, beginning with "package": it is built;
//   - a quotation, with a line before it that names the file, from the
//     repository's root, and what is quoted from it, in order; a method is
//     named with its type:
//     <!-- from: examples/bank/bank.go Withdraw withdraw -->
//     <!-- from: examples/bank/command.go Transfer.Subjects -->
//   - marked "go ignore", for code that is meant to be wrong.
//
// A console block after a line <!-- run: program --> or <!-- run: semel serve -->
// is a session with curl; transcript_test.go does what it says.
package docs_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/internal/crashpoint"
)

// root is the repository's root as seen from this package.
const root = ".."

// A document is one Markdown file; its path is relative to the root.
type document struct {
	path  string
	lines []string
}

// A block is fenced code. Its line is that of the fence, counting from 1.
type block struct {
	info, before, text string
	line               int
}

func TestGoBlocks(t *testing.T) {
	t.Parallel()
	programs := make(map[string]string) // place → source
	for _, doc := range documents(t) {
		for _, b := range doc.blocks(t) {
			if language, _, _ := strings.Cut(b.info, " "); language != "go" || b.info == "go ignore" {
				continue
			}
			place := fmt.Sprintf("%s:%d", doc.path, b.line)
			quoted, isQuotation := strings.CutPrefix(b.before, "<!-- from: ")
			switch {
			case isQuotation:
				checkQuotation(t, place, strings.TrimSuffix(quoted, " -->"), b.text)
			case strings.HasPrefix(b.text, "package "):
				programs[place] = b.text
			default:
				t.Errorf("%s: this go block is no program and does not say which source it quotes", place)
			}
			if formatted, err := format.Source([]byte(b.text)); err != nil {
				t.Errorf("%s: %v", place, err)
			} else if strings.TrimSpace(string(formatted)) != strings.TrimSpace(b.text) {
				t.Errorf("%s: gofmt would change this block", place)
			}
		}
	}
	for place, source := range programs {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			buildProgram(t, place, source)
		})
	}
}

func checkQuotation(t *testing.T, place, from, text string) {
	t.Helper()
	fields := strings.Fields(from)
	if len(fields) < 2 {
		t.Errorf("%s: %q names no file or nothing in it", place, from)
		return
	}
	var parts []string
	for _, name := range fields[1:] {
		source, err := declaration(filepath.Join(root, fields[0]), name, strings.HasPrefix(text, "//"))
		if err != nil {
			t.Errorf("%s: %v", place, err)
			return
		}
		parts = append(parts, source)
	}
	if want := strings.Join(parts, "\n\n"); strings.TrimSpace(text) != want {
		t.Errorf("%s: the block is not what %s says; it would be:\n%s", place, fields[0], want)
	}
}

// declaration returns the source of one top-level function, method or type.
func declaration(path, name string, withDoc bool) (string, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	for _, d := range file.Decls {
		var doc *ast.CommentGroup
		switch d := d.(type) {
		case *ast.FuncDecl:
			if methodName(d) != name {
				continue
			}
			doc = d.Doc
		case *ast.GenDecl:
			if !slices.ContainsFunc(d.Specs, func(s ast.Spec) bool {
				spec, ok := s.(*ast.TypeSpec)
				return ok && spec.Name.Name == name
			}) {
				continue
			}
			doc = d.Doc
		}
		start := d.Pos()
		if withDoc && doc != nil {
			start = doc.Pos()
		}
		return string(src[set.Position(start).Offset:set.Position(d.End()).Offset]), nil
	}
	return "", fmt.Errorf("%s declares no %q", path, name)
}

// methodName is a function's name, and of a method Type.Name.
func methodName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	receiver := d.Recv.List[0].Type
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver = t.X
		case *ast.IndexExpr:
			receiver = t.X
		case *ast.Ident:
			return t.Name + "." + d.Name.Name
		default:
			return d.Name.Name
		}
	}
}

// buildProgram builds a program as if it stood in a directory of its own in
// this module, and returns the binary. An overlay leaves the tree as it is.
func buildProgram(t *testing.T, place, source string) string {
	t.Helper()
	module, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, overlay, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "program")
	name := "program" + filepath.Base(filepath.Dir(dir)) // two tests may build at once
	encoded, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(module, "docs", name, "main.go"): file}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, source)
	write(t, overlay, string(encoded))
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", binary, "./docs/"+name)
	build.Dir = module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: the program does not build: %v\n%s", place, err, out)
	}
	return binary
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

var (
	link       = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	inlineCode = regexp.MustCompile("`[^`]*`")
	absolute   = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
)

func TestLinks(t *testing.T) {
	t.Parallel()
	docs := documents(t)
	anchors := make(map[string][]string, len(docs))
	for _, doc := range docs {
		anchors[doc.path] = doc.anchors()
	}
	links := 0
	for _, doc := range docs {
		for i, line := range doc.prose() {
			for _, m := range link.FindAllStringSubmatch(inlineCode.ReplaceAllString(line, "``"), -1) {
				if absolute.MatchString(m[1]) {
					continue
				}
				links++
				path, anchor, hasAnchor := strings.Cut(m[1], "#")
				target := filepath.ToSlash(filepath.Join(filepath.Dir(doc.path), path))
				if path == "" {
					target = doc.path
				}
				if _, err := os.Stat(filepath.Join(root, target)); err != nil {
					t.Errorf("%s:%d: the link to %q leads nowhere: there is no %s", doc.path, i+1, m[1], target)
				} else if hasAnchor && !slices.Contains(anchors[target], anchor) {
					t.Errorf("%s:%d: the link to %q leads nowhere: no heading of %s has the anchor %q", doc.path, i+1, m[1], target, anchor)
				}
			}
		}
	}
	if links == 0 {
		t.Error("no relative link was found in any document")
	}
}

// TestStates compares the table of states with the code's list.
func TestStates(t *testing.T) {
	t.Parallel()
	var want []string
	for _, s := range semel.States() {
		want = append(want, string(s))
	}
	doc := read(t, "docs/guarantees.md")
	for _, header := range []string{"| state | meaning |", "| state | plain status |"} {
		if got := firstColumn(t, doc, header); !slices.Equal(got, want) {
			t.Errorf("docs/guarantees.md: the table %q lists %q, the code %q", header, got, want)
		}
	}
}

// TestMoves compares the table of legal moves with the code, move by move.
func TestMoves(t *testing.T) {
	t.Parallel()
	documented := make(map[string]bool)
	for _, row := range table(t, read(t, "docs/guarantees.md"), "| from | to |") {
		documented[row[0]+" → "+row[1]] = true
	}
	moves := 0
	for _, from := range append([]semel.State{""}, semel.States()...) {
		for _, to := range semel.States() {
			name := string(from)
			if from == "" {
				name = "(new)"
			}
			move := name + " → " + string(to)
			if from.CanMove(to) {
				moves++
			}
			if legal := from.CanMove(to); legal != documented[move] {
				t.Errorf("docs/guarantees.md: the move %s is in the table: %v; the code takes it: %v", move, documented[move], legal)
			}
		}
	}
	if len(documented) != moves {
		t.Errorf("docs/guarantees.md lists %d different moves, the code has %d", len(documented), moves)
	}
}

// TestCrashTable compares the crash table with the points at which the crash
// tests kill the process.
func TestCrashTable(t *testing.T) {
	t.Parallel()
	got := firstColumn(t, read(t, "docs/guarantees.md"), "| point | what the client sees |")
	if want := crashpoint.All(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("docs/guarantees.md: the crash table lists %q, the code has %q", got, want)
	}
}

// documents returns every Markdown file of the repository.
func documents(t *testing.T) []document {
	t.Helper()
	var docs []document
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
			return filepath.SkipDir
		}
		if entry.IsDir() || filepath.Ext(name) != ".md" {
			return nil
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		docs = append(docs, read(t, filepath.ToSlash(relative)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) < 3 {
		t.Fatalf("found %d documents", len(docs))
	}
	return docs
}

func read(t *testing.T, path string) document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return document{path: path, lines: strings.Split(string(text), "\n")}
}

// blocks returns the fenced blocks of the document.
func (d document) blocks(t *testing.T) []block {
	t.Helper()
	var blocks []block
	var open *block
	before := ""
	for i, line := range d.lines {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			open = &block{info: strings.TrimSpace(info), before: before, line: i + 1}
		case fence:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
		if strings.TrimSpace(line) != "" {
			before = line
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the fence is never closed", d.path, open.line)
	}
	return blocks
}

// prose returns the document's lines, those of fenced blocks emptied.
func (d document) prose() []string {
	prose := slices.Clone(d.lines)
	inside := false
	for i, line := range prose {
		fence := strings.HasPrefix(line, "```")
		if fence || inside {
			prose[i] = ""
		}
		inside = inside != fence
	}
	return prose
}

// anchors returns the names that GitHub gives to the document's headings.
func (d document) anchors() []string {
	var anchors []string
	seen := make(map[string]int)
	for _, line := range d.prose() {
		heading := strings.TrimLeft(line, "#")
		if heading == line || !strings.HasPrefix(heading, " ") {
			continue
		}
		slug := strings.ToLower(strings.TrimSpace(heading))
		slug = strings.ReplaceAll(notInSlug.ReplaceAllString(slug, ""), " ", "-")
		anchor := slug
		if n := seen[slug]; n > 0 {
			anchor = fmt.Sprintf("%s-%d", slug, n)
		}
		seen[slug]++
		anchors = append(anchors, anchor)
	}
	return anchors
}

// table returns the rows below the header that begins as given, their cells
// without the marks of code.
func table(t *testing.T, d document, header string) [][]string {
	t.Helper()
	start := slices.IndexFunc(d.lines, func(line string) bool { return strings.HasPrefix(line, header) })
	if start < 0 {
		t.Fatalf("%s has no table that begins with %q", d.path, header)
	}
	var rows [][]string
	for _, line := range d.lines[start+2:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		var row []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			row = append(row, strings.Trim(strings.TrimSpace(cell), "`"))
		}
		rows = append(rows, row)
	}
	return rows
}

func firstColumn(t *testing.T, d document, header string) []string {
	t.Helper()
	var column []string
	for _, row := range table(t, d, header) {
		column = append(column, row[0])
	}
	return column
}
