package page_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// A visitor is a browser that looks at a demo.
type visitor struct {
	ctx  context.Context // of the browser's tab
	url  string
	stop func() // ends the demo

	mu       sync.Mutex
	complain []string
}

// visit starts the demo and a browser and opens the page.
func visit(t *testing.T) *visitor {
	t.Helper()
	browser := findBrowser(t)
	v := &visitor{}
	v.url, v.stop = startDemo(t, "127.0.0.1:0")
	v.ctx = openTab(t, browser)
	if err := chromedp.Listen(v.ctx, v.listen); err != nil {
		t.Fatalf("starting %s: %v", browser, err)
	}
	v.do(t, chromedp.EmulateViewport(1280, 900), chromedp.Navigate(v.url+"/"))
	v.shows(t, "#protected [data-part=balance]", ".")
	return v
}

// findBrowser skips the test loudly on a machine without a browser, except in
// CI, where nobody would notice.
func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const how = "no Chromium in PATH. Install it (Debian: apt install chromium; macOS: brew install --cask chromium) to test the page in a real browser"
	if os.Getenv("CI") == "true" {
		t.Fatal(how)
	}
	fmt.Fprintln(os.Stderr, "SKIPPED: the browser test of the demo page did not run: "+how)
	t.Skip(how)
	return ""
}

func openTab(t *testing.T, browser string) context.Context {
	t.Helper()
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(browser),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Headless,
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("disable-sync", true),
	}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // its sandbox refuses to run as root
	}
	allocator, release := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(release)
	ctx, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(func() {
		defer cancel()
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("closing the browser: %v", err)
		}
	})
	return ctx
}

var address = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// startDemo builds the program and starts its demo. A binary named by
// SEMEL_BINARY is used as it is.
func startDemo(t *testing.T, addr string) (url string, stop func()) {
	t.Helper()
	binary := os.Getenv("SEMEL_BINARY")
	if binary == "" {
		binary = filepath.Join(t.TempDir(), "semel")
		if runtime.GOOS == "windows" {
			binary += ".exe"
		}
		build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/semel-dev/semel/cmd/semel")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building the demo: %v\n%s", err, out)
		}
	}
	demo := exec.Command(binary, "demo", "--addr", addr)
	read, write := io.Pipe()
	demo.Stdout, demo.Stderr = write, write
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	var reader sync.WaitGroup
	var said strings.Builder
	reader.Go(func() {
		for lines := bufio.NewScanner(read); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if a := address.FindString(lines.Text()); a != "" {
				select {
				case found <- a:
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, read) // a line too long must not block the demo
	})
	stop = sync.OnceFunc(func() {
		if err := demo.Process.Signal(os.Interrupt); err != nil {
			_ = demo.Process.Kill() // where there are no interrupts
		}
		_ = demo.Wait()
		write.Close()
		reader.Wait()
		if t.Failed() {
			t.Logf("the demo said:\n%s", said.String())
		}
	})
	t.Cleanup(stop)
	select {
	case url = <-found:
	case <-time.After(patience):
		stop()
		t.Fatalf("the demo printed no address within %s:\n%s", patience, said.String())
	}
	return url, stop
}

// listen keeps what the browser has to complain of: exceptions, errors on the
// console, violations of the content security policy. Lost connections are
// what the demo is about.
func (v *visitor) listen(event any) {
	var line string
	switch e := event.(type) {
	case *cdpruntime.EventExceptionThrown:
		line = e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			line += " " + e.ExceptionDetails.Exception.Description
		}
	case *cdpruntime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "assert" {
			line = fmt.Sprintf("console.%s called", e.Type)
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" && e.Entry.Source != "network" {
			line = fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	}
	if line == "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.complain = append(v.complain, line)
}

// complaints returns what came since the last call.
func (v *visitor) complaints() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	lines := v.complain
	v.complain = nil
	return lines
}

func (v *visitor) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// doubleClick presses twice in the same place, as fast as the browser takes
// it: looking the element up again in between would cost time on a busy
// machine, and then it would be two clicks.
func (v *visitor) doubleClick(t *testing.T, selector string) {
	t.Helper()
	v.do(t, chromedp.ScrollIntoView(chromedp.CSS(selector)))
	at := evaluate[[]float64](t, v, fmt.Sprintf(
		`(() => { const r = document.querySelector(%q).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()`, selector))
	v.do(t, chromedp.MouseClickXY(at[0], at[1]), chromedp.MouseClickXY(at[0], at[1], chromedp.ClickCount(2)))
}

// evaluate runs a script in the page; a promise is awaited.
func evaluate[T any](t *testing.T, v *visitor, script string) T {
	t.Helper()
	result, err := chromedp.Run(v.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%v, in the script %s", err, script)
	}
	return result
}
