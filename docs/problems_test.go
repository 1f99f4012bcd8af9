package docs_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/semel-dev/semel"
	"github.com/semel-dev/semel/gateway"
)

// TestProblems compares the pages under docs/problems with the gateway's list:
// one page for each kind, its title, status and example as on the wire.
func TestProblems(t *testing.T) {
	t.Parallel()
	var pages []string
	files, err := filepath.Glob(filepath.Join(root, "docs/problems/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if slug := strings.TrimSuffix(filepath.Base(file), ".md"); slug != "README" {
			pages = append(pages, slug)
		}
	}
	index, err := os.ReadFile(filepath.Join(root, "docs/problems/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, kind := range gateway.Problems() {
		kinds = append(kinds, kind.Slug)
		if !slices.Contains(pages, kind.Slug) {
			t.Errorf("the gateway answers with %q, and there is no docs/problems/%s.md", kind.Slug, kind.Slug)
			continue
		}
		if row := fmt.Sprintf("| [%s](%s.md) | %d |", kind.Title, kind.Slug, kind.Status); !strings.Contains(string(index), row) {
			t.Errorf("docs/problems/README.md lacks the row %s", row)
		}
		checkProblemPage(t, kind)
	}
	for _, page := range pages {
		if !slices.Contains(kinds, page) {
			t.Errorf("docs/problems/%s.md describes a problem that the gateway does not answer with", page)
		}
	}
}

func checkProblemPage(t *testing.T, kind gateway.ProblemKind) {
	t.Helper()
	doc := read(t, "docs/problems/"+kind.Slug+".md")
	if want := "# " + kind.Title; doc.lines[0] != want {
		t.Errorf("%s:1: the heading is %q, want %q", doc.path, doc.lines[0], want)
	}
	if want := fmt.Sprintf("Status %d, type `%s%s`.", kind.Status, semel.ProblemTypes, kind.Slug); doc.lines[2] != want {
		t.Errorf("%s:3: the line is %q, want %q", doc.path, doc.lines[2], want)
	}
	blocks := doc.blocks(t)
	if len(blocks) != 1 || blocks[0].info != "json" {
		t.Errorf("%s: want one example, as a json block", doc.path)
		return
	}
	var example struct {
		Type, Title, Detail, Operation string
		Status                         int
	}
	if err := json.Unmarshal([]byte(blocks[0].text), &example); err != nil {
		t.Errorf("%s:%d: %v", doc.path, blocks[0].line, err)
		return
	}
	if example.Type != semel.ProblemTypes+kind.Slug || example.Title != kind.Title || example.Status != kind.Status || example.Detail == "" {
		t.Errorf("%s:%d: the example is not of the kind %+v", doc.path, blocks[0].line, kind)
	}
	if id, ok := strings.CutPrefix(example.Operation, "operations/"); ok {
		if _, err := semel.ParseID(id); err != nil {
			t.Errorf("%s:%d: %v", doc.path, blocks[0].line, err)
		}
	}
}
