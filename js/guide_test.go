package js_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/chromedp/chromedp"
)

var quotation = regexp.MustCompile("(?s)<!-- from: (js/\\S+) -->\n```js\n(.*?)```\n")

// TestGuideQuotes compares the guide's code with the files that are tested.
func TestGuideQuotes(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile(filepath.Join("..", "docs", "javascript.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := quotation.FindAllSubmatch(guide, -1)
	if len(found) != 2 {
		t.Fatalf("the guide quotes %d files; want 2", len(found))
	}
	for _, f := range found {
		source, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(string(f[1]))))
		if err != nil {
			t.Error(err)
		} else if string(source) != string(f[2]) {
			t.Errorf("docs/javascript.md is not what %s says", f[1])
		}
	}
}

// guidePage runs the page of the guide, and loads it again in the middle.
func guidePage(t *testing.T, b *bank, browser context.Context) {
	b.afflict(func(r request) fault {
		if r.method == "POST" && r.number == 1 {
			return loseReply
		}
		return none
	})
	v := visit(t, browser, b.url+"/test/deposit.html", "")
	evaluate[any](v, `sessionStorage.setItem("token", "secret-of-alice"); null`)
	press := func() { v.load(chromedp.Click(chromedp.CSS("button"))) }
	press()
	v.until(`document.querySelector("output").textContent === "Done, at an earlier try: the balance is 100"`)
	v.until(`document.querySelector("#outcomes").textContent === "deposit: the balance is 100"`)
	b.afflict(func(r request) fault {
		if r.method == "POST" {
			return loseReply
		}
		return none
	})
	press()
	v.until(`document.querySelector("output").textContent === "On its way"`)
	v.reload()
	b.afflict(nil)
	v.until(fmt.Sprintf(`document.querySelector("#outcomes").textContent === %q`, "deposit: the balance is 200"))
	evaluate[any](v, `document.querySelector("input").value = "-5"; null`)
	press()
	v.until(`document.querySelector("output").textContent === "Refused: a deposit of -5 is none"`)
	b.once("alice", 2)
}
