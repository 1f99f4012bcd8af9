package page_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/semel-dev/semel/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// patience is how long anything on the page may take, restarts of the worker
// and every retry included.
const patience = 45 * time.Second

// A state is what the demo says of itself; the page is checked against it.
type state struct {
	Protected struct {
		Balance    int64
		Operations []struct {
			Key, State string
			Cents      int64
			Replays    int
		}
		Invariants []struct {
			Name, Detail string
			OK           bool
		}
	}
	Naive struct {
		Balance       int64
		DoubleEffects int
	}
	Counts struct{ Requests, Effects, Replays, DoubleEffects, Lost int }
	Worker struct {
		PID      int
		Up       bool
		Restarts int
	}
	Switches struct {
		Duplicate, DelayMs     int
		LoseRequest, LoseReply bool
	}
}

// TestPage drives the real demo in a real browser, as a visitor would.
func TestPage(t *testing.T) {
	v := visit(t)
	v.photograph(t, "empty")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *visitor)
	}{
		{"one click", oneClick},
		{"double click, requests tripled", doubleClick},
		{"reply lost", replyLost},
		{"request lost", requestLost},
		{"the same key again", sameKeyAgain},
		{"the same key for another amount", sameKeyOtherAmount},
		{"killed in mid-transaction", killedInTransaction},
		{"reloaded in the middle", reloadedInTheMiddle},
		{"amounts", amounts},
		{"scheme is remembered", schemeIsRemembered},
		{"narrow", narrow},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, v) }) {
			v.photograph(t, "failed")
			t.FailNow()
		}
		v.hold(t)
	}
	v.do(t, chromedp.Click(chromedp.CSS("#withdraw")))
	v.settled(t)
	v.do(t, chromedp.Click(chromedp.CSS(".curl summary")))
	v.shows(t, "#curl", v.state(t).Protected.Operations[0].Key)
	v.photograph(t, "used")
	t.Run("server gone", func(t *testing.T) { serverGone(t, v) })
}

func oneClick(t *testing.T, v *visitor) {
	before := v.state(t)
	v.do(t, chromedp.Click(chromedp.CSS("#withdraw")))
	v.settled(t)
	after := v.state(t)
	v.paid(t, before, after, 1, 1)
	if got := v.text(t, "#happened"); !strings.Contains(got, "One withdrawal of 25.00") {
		t.Errorf("the page says %q", got)
	}
	if n := len(after.Protected.Operations); n == 0 || after.Protected.Operations[0].Cents != 2500 {
		t.Errorf("operations are %+v; want one of 2500 cents at the head", after.Protected.Operations)
	}
}

func doubleClick(t *testing.T, v *visitor) {
	v.choose(t, `input[name=duplicate][value="3"]`)
	v.until(t, "the switch is set", func(s state) bool { return s.Switches.Duplicate == 3 })
	before := v.state(t)
	v.doubleClick(t, "#withdraw")
	v.settled(t)
	after := v.state(t)
	if naive := v.paid(t, before, after, 1, 3); naive < 3 {
		t.Errorf("the naive twin paid %d times; the duplicates did not arrive", naive)
	}
	if got := after.Counts.Replays - before.Counts.Replays; got < 3 {
		t.Errorf("%d replays were absorbed; want the two duplicates and the second click at least", got)
	}
	if got := after.Counts.Effects - before.Counts.Effects; got != 1 {
		t.Errorf("the counters say %d effects; want 1", got)
	}
	if after.Naive.DoubleEffects <= before.Naive.DoubleEffects {
		t.Error("the counters know nothing of the naive twin's double effects")
	}
	if got := v.text(t, "#happened"); !strings.Contains(got, "Protected: paid once") || !strings.Contains(got, "You clicked twice") {
		t.Errorf("the page says %q", got)
	}
	if got := v.text(t, "#entries"); !strings.Contains(got, "paid again") {
		t.Errorf("the double debit is not named in the naive ledger: %q", got)
	}
	v.photograph(t, "double-click")
	v.choose(t, `input[name=duplicate][value="1"]`)
	v.until(t, "the switch is off", func(s state) bool { return s.Switches.Duplicate <= 1 })
}

func replyLost(t *testing.T, v *visitor) {
	v.choose(t, "#lose-reply")
	v.until(t, "the switch is set", func(s state) bool { return s.Switches.LoseReply })
	before := v.state(t)
	v.do(t, chromedp.Click(chromedp.CSS("#withdraw")))
	v.settled(t)
	v.paid(t, before, v.state(t), 1, 2)
	tries := v.text(t, "#protected [data-part=tries]")
	if !strings.Contains(tries, "connection lost") || !strings.Contains(tries, "stored answer") {
		t.Errorf("the tries are shown as %q; want a lost one and a stored answer", tries)
	}
	v.choose(t, "#lose-reply")
	v.until(t, "the switch is off", func(s state) bool { return !s.Switches.LoseReply })
}

func requestLost(t *testing.T, v *visitor) {
	v.choose(t, "#lose-request")
	v.until(t, "the switch is set", func(s state) bool { return s.Switches.LoseRequest })
	before := v.state(t)
	v.do(t, chromedp.Click(chromedp.CSS("#withdraw")))
	v.settled(t)
	v.paid(t, before, v.state(t), 1, 1)
	v.choose(t, "#lose-request")
	v.until(t, "the switch is off", func(s state) bool { return !s.Switches.LoseRequest })
}

func sameKeyAgain(t *testing.T, v *visitor) {
	before := v.state(t)
	v.do(t, chromedp.Click(chromedp.CSS("#repeat")))
	v.settled(t)
	v.paid(t, before, v.state(t), 0, 1)
}

func sameKeyOtherAmount(t *testing.T, v *visitor) {
	before := v.state(t)
	v.do(t, chromedp.Click(chromedp.CSS("#alter")))
	v.settled(t)
	after := v.state(t)
	if before.Protected.Balance != after.Protected.Balance {
		t.Error("a key that was used for another amount moved money")
	}
	if got := v.text(t, "#protected [data-part=tries]"); !strings.Contains(got, "422") {
		t.Errorf("the tries are shown as %q; want a 422", got)
	}
}

func killedInTransaction(t *testing.T, v *visitor) {
	before := v.state(t)
	v.do(t, chromedp.Click(chromedp.CSS("[data-kill=mid-transaction]")))
	v.shows(t, "#kill-words", "Armed")
	v.do(t, chromedp.Click(chromedp.CSS("#withdraw")))
	v.settled(t)
	v.until(t, "a new worker is up", func(s state) bool { return s.Worker.Up && s.Worker.Restarts > before.Worker.Restarts })
	after := v.state(t)
	v.paid(t, before, after, 1, 1)
	if after.Worker.PID == before.Worker.PID {
		t.Errorf("the worker is still process %d; nothing was killed", after.Worker.PID)
	}
	v.shows(t, "#worker-words", fmt.Sprint(after.Worker.PID))
	v.photograph(t, "killed")
}

// pendingKeys asks the page's own client what it has not seen the end of.
const pendingKeys = `import("/sender.js").then((m) => m.bank.pending()).then((all) => all.map((p) => p.key).join())`

// reloadedInTheMiddle leaves the page while its request is held up. The key
// was stored before the first send, so the new page asks with the same one.
func reloadedInTheMiddle(t *testing.T, v *visitor) {
	v.choose(t, `input[name=delay][value="500"]`)
	v.until(t, "the switch is set", func(s state) bool { return s.Switches.DelayMs == 500 })
	before := v.state(t)
	v.do(t, chromedp.Click(chromedp.CSS("#withdraw")))
	key := evaluate[string](t, v, pendingKeys)
	v.do(t, chromedp.Reload())
	v.settled(t)
	after := v.state(t)
	v.paid(t, before, after, 1, 1)
	if got := after.Protected.Operations[0].Key; got != key {
		t.Errorf("the newest operation has key %q; want %q from before the reload", got, key)
	}
	if left := evaluate[string](t, v, pendingKeys); left != "" {
		t.Errorf("%q is still pending although its outcome was shown", left)
	}
	v.choose(t, `input[name=delay][value="0"]`)
	v.until(t, "the switch is off", func(s state) bool { return s.Switches.DelayMs == 0 })
}

// amounts asks the page's own module what it makes of text.
func amounts(t *testing.T, v *visitor) {
	for text, want := range map[string]string{
		"25": "25.00", "25.5": "25.50", "0,07": "0.07", " 1000 ": "1,000.00",
		"92233720368547758.07": "92,233,720,368,547,758.07",
		"92233720368547758.08": "error", "0": "error", "0.00": "error", "-5": "error", "1.234": "error", "1e3": "error", "": "error",
	} {
		script := fmt.Sprintf(`import("/money.js").then((m) => { try { return m.format(m.parse(%q)); } catch { return "error"; } })`, text)
		if got := evaluate[string](t, v, script); got != want {
			t.Errorf("%q is read as %q, want %q", text, got, want)
		}
	}
	before := v.state(t)
	v.do(t, chromedp.SetValue(chromedp.CSS("#amount"), "12.345"), chromedp.Click(chromedp.CSS("#withdraw")))
	v.shows(t, "#amount-error", "Write an amount")
	if v.state(t).Counts.Requests != before.Counts.Requests {
		t.Error("an amount that cannot be read was sent")
	}
	v.do(t, chromedp.Click(chromedp.CSS(`[data-amount="25.00"]`)))
}

func schemeIsRemembered(t *testing.T, v *visitor) {
	background := `getComputedStyle(document.body).backgroundColor`
	light := evaluate[string](t, v, background)
	v.do(t, chromedp.Click(chromedp.CSS("#scheme")))
	dark := evaluate[string](t, v, background)
	v.do(t, chromedp.Reload())
	if again := evaluate[string](t, v, background); light == dark || again != dark {
		t.Errorf("backgrounds are %s, then %s, and %s after a reload", light, dark, again)
	}
	evaluate[any](t, v, `localStorage.clear()`)
	v.do(t, chromedp.Reload())
	if system := evaluate[string](t, v, background); system != light {
		t.Errorf("without a choice the background is %s, want the system's %s", system, light)
	}
}

// narrow checks that nothing hangs over the edge of small screens.
func narrow(t *testing.T, v *visitor) {
	for _, width := range []int64{360, 390, 600, 820, 1040, 1280, 1920} {
		v.do(t, chromedp.EmulateViewport(width, 900))
		if over := evaluate[int](t, v, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
			t.Errorf("at %d px the page is %d px too wide", width, over)
		}
	}
	v.do(t, chromedp.EmulateViewport(1280, 900))
}

// serverGone ends the demo under the page and starts another one at the same
// address: the page must say so, and come back by itself.
func serverGone(t *testing.T, v *visitor) {
	v.stop()
	banner := `!document.getElementById("gone").hidden`
	poll(t, "the banner is shown", func() bool { return evaluate[bool](t, v, banner) })
	v.photograph(t, "gone")
	v.url, v.stop = startDemo(t, strings.TrimPrefix(v.url, "http://"))
	poll(t, "the banner is gone", func() bool { return !evaluate[bool](t, v, banner) })
	v.shows(t, "#protected [data-part=balance]", money(v.state(t).Protected.Balance))
}

// paid checks by how many withdrawals of 25.00 both balances went down: the
// protected one by exactly so many, the naive one by at least so many. It
// returns how often the naive one paid.
func (v *visitor) paid(t *testing.T, before, after state, protected, naive int64) int64 {
	t.Helper()
	const cents = 2500
	if got := before.Protected.Balance - after.Protected.Balance; got != protected*cents {
		t.Errorf("the protected balance went down by %d cents; want %d", got, protected*cents)
	}
	got := (before.Naive.Balance - after.Naive.Balance) / cents
	if got < naive {
		t.Errorf("the naive twin paid %d times; want %d at least: did the fault happen?", got, naive)
	}
	for side, balance := range map[string]int64{"protected": after.Protected.Balance, "naive": after.Naive.Balance} {
		v.shows(t, "#"+side+" [data-part=balance]", money(balance))
	}
	v.hold(t)
	return got
}

func money(cents int64) string {
	whole := fmt.Sprint(cents / 100)
	if len(whole) > 3 {
		whole = whole[:len(whole)-3] + "," + whole[len(whole)-3:]
	}
	return fmt.Sprintf("%s.%02d", whole, cents%100)
}

// hold checks what must be true at all times.
func (v *visitor) hold(t *testing.T) {
	t.Helper()
	s := v.state(t)
	if s.Counts.DoubleEffects != 0 || s.Counts.Lost != 0 {
		t.Errorf("counters are %+v; nothing may be doubled or lost", s.Counts)
	}
	for _, invariant := range s.Protected.Invariants {
		if !invariant.OK {
			t.Errorf("broken: %s: %s", invariant.Name, invariant.Detail)
		}
	}
	for _, line := range v.complaints() {
		t.Errorf("the browser complains: %s", line)
	}
}

func (v *visitor) state(t *testing.T) state {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url+"/demo/state", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var s state
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		t.Fatalf("decoding the demo's state (%s): %v", response.Status, err)
	}
	return s
}

// until waits for the demo's state to be as wanted.
func (v *visitor) until(t *testing.T, what string, ok func(state) bool) {
	t.Helper()
	poll(t, what, func() bool { return ok(v.state(t)) })
}

// poll looks again and again: the demo and the browser are other processes.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("after %s it is still not so: %s", patience, what)
		}
	}
}

// settled waits until the outcome of the last click has been shown.
func (v *visitor) settled(t *testing.T) {
	t.Helper()
	poll(t, "the outcome is shown", func() bool {
		return evaluate[bool](t, v, `!document.getElementById("again").hidden`)
	})
}

func (v *visitor) shows(t *testing.T, selector, want string) {
	t.Helper()
	poll(t, selector+" shows "+want, func() bool { return strings.Contains(v.text(t, selector), want) })
}

func (v *visitor) text(t *testing.T, selector string) string {
	t.Helper()
	return evaluate[string](t, v, fmt.Sprintf(`document.querySelector(%q).innerText`, selector))
}

// choose clicks a switch.
func (v *visitor) choose(t *testing.T, selector string) {
	t.Helper()
	v.do(t, chromedp.Click(chromedp.CSS(selector)))
}

// photograph keeps pictures of the page in both schemes and two widths, in
// the directory named by SEMEL_SCREENSHOTS.
func (v *visitor) photograph(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("SEMEL_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	for _, width := range []int64{1280, 390} {
		for _, scheme := range []string{"light", "dark"} {
			v.prefer(t, scheme, "reduce") // no picture of a colour on its way
			v.do(t, chromedp.EmulateViewport(width, 900))
			picture, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(picture, []byte("\x89PNG")) {
				t.Fatal("the screenshot is not a PNG")
			}
			file := filepath.Join(dir, fmt.Sprintf("%s-%s-%d.png", name, scheme, width))
			if err := os.WriteFile(file, picture, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	v.prefer(t, "light", "no-preference")
	v.do(t, chromedp.EmulateViewport(1280, 900))
}

// prefer sets the visitor's preferences for colours and motion.
func (v *visitor) prefer(t *testing.T, scheme, motion string) {
	t.Helper()
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme},
		{Name: "prefers-reduced-motion", Value: motion},
	}}
	if _, err := chromedp.Call(v.ctx, emulation.SetEmulatedMedia, media); err != nil {
		t.Fatal(err)
	}
}
