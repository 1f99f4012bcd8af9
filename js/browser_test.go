package js_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// A tab is one page of the browser that all tests here share, which makes them
// tabs of one visitor.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string

	mu       sync.Mutex
	complain []string
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
	const how = "no Chromium in PATH. Install it (Debian: apt install chromium; macOS: brew install --cask chromium) to test the JavaScript client in a real browser"
	if os.Getenv("CI") == "true" {
		t.Fatal(how)
	}
	fmt.Fprintln(os.Stderr, "SKIPPED: the browser test of the JavaScript client did not run: "+how)
	t.Skip(how)
	return ""
}

func openBrowser(t *testing.T) context.Context {
	t.Helper()
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(findBrowser(t)),
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
	if err := chromedp.Do(ctx); err != nil { // starts it
		t.Fatal(err)
	}
	return ctx
}

// visit opens a tab; before is a script that runs before the page's own.
func visit(t *testing.T, browser context.Context, url, before string) *tab {
	t.Helper()
	ctx, leave := chromedp.NewContext(browser)
	v := &tab{t: t, ctx: ctx, url: url}
	t.Cleanup(func() {
		leave()
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, line := range v.complain {
			t.Errorf("the browser complains: %s", line)
		}
	})
	if err := chromedp.Listen(ctx, v.listen); err != nil {
		t.Fatal(err)
	}
	if before != "" {
		script := page.AddScriptToEvaluateOnNewDocumentParams{Source: before}
		if _, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, script); err != nil {
			t.Fatal(err)
		}
	}
	v.load(chromedp.Navigate(url))
	return v
}

func (v *tab) listen(event any) {
	if e, ok := event.(*cdpruntime.EventExceptionThrown); ok {
		v.mu.Lock()
		defer v.mu.Unlock()
		line := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			line += " " + e.ExceptionDetails.Exception.Description
		}
		v.complain = append(v.complain, line)
	}
}

func (v *tab) load(how chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, how); err != nil {
		v.t.Fatal(err)
	}
	v.until("window.ready === true")
}

func (v *tab) reload() { v.t.Helper(); v.load(chromedp.Reload()) }

func evaluate[T any](v *tab, script string, args ...any) T {
	v.t.Helper()
	script = fmt.Sprintf(script, args...)
	result, err := chromedp.Run(v.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		v.t.Fatalf("%v, in the script %s", err, script)
	}
	return result
}

func (v *tab) until(script string, args ...any) {
	v.t.Helper()
	script = fmt.Sprintf(script, args...)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		// A page that is being replaced has no answer.
		if ok, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool]("(async () => Boolean(await ("+script+")))()", chromedp.EvalAwaitPromise)); err == nil && ok {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			said, _ := chromedp.Run(v.ctx, chromedp.Evaluate[string](`JSON.stringify({tries: window.tries, ends: window.ends, outcomes: window.outcomes, warnings: window.warnings})`))
			v.t.Fatalf("after %s it is still not so: %s; the page knows %s", patience, script, said)
		}
	}
}

func (v *tab) deposit(key, account, gate string) {
	v.t.Helper()
	evaluate[string](v, `deposit(%q, %q, %q)`, key, account, gate)
}

func (v *tab) offline(yes bool) {
	v.t.Helper()
	conditions := &network.Conditions{DownloadThroughput: -1, UploadThroughput: -1, Offline: yes}
	rule := network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: []*network.Conditions{conditions}}
	if _, err := chromedp.Call(v.ctx, network.EmulateNetworkConditionsByRule, rule); err != nil {
		v.t.Fatal(err)
	}
	state := network.OverrideNetworkStateParams{Offline: yes, DownloadThroughput: -1, UploadThroughput: -1}
	if _, err := chromedp.Call(v.ctx, network.OverrideNetworkState, state); err != nil {
		v.t.Fatal(err)
	}
}

func TestBrowser(t *testing.T) {
	b := open(t)
	browser := openBrowser(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *bank, context.Context)
	}{
		{"reload in the middle", reloadInTheMiddle},
		{"reload before the answer arrives", reloadWithLostReplies},
		{"offline and back", offlineAndBack},
		{"two tabs, one intention", twoTabs},
		{"the sending tab is closed", sendingTabCloses},
		{"requests and replies lost, 503", faults},
		{"stream cut", streamCut},
		{"socket", overSocket},
		{"no streams", noStreams},
		{"another user in the same browser", otherUser},
		{"signed out", signedOut},
		{"refused and canceled", refusedAndCanceled},
		{"the sending tab is frozen", sendingTabFrozen},
		{"without IndexedDB and locks", poorBrowser},
		{"the guide's page", guidePage},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.afflict(nil)
			b.t = t
			test.run(t, b, browser)
		})
	}
}

func reloadInTheMiddle(t *testing.T, b *bank, browser context.Context) {
	v := visit(t, browser, b.url+"/test/page.html?user=rita", "")
	v.deposit("reload-1", "rita", "rita")
	poll(t, "the server has it", func() bool { return len(b.sends("reload-1")) > 0 })
	v.reload()
	if got := evaluate[string](v, `client.pending().then((all) => all.map((p) => p.key).join())`); got != "reload-1" {
		t.Errorf("after the reload %q is pending; want reload-1", got)
	}
	b.release("rita")
	v.until(`outcomes.some((o) => o.key === "reload-1" && o.state === "completed" && o.body.balance === 100)`)
	v.until(`client.pending().then((all) => all.length === 0)`)
	b.once("rita", 1)
	v.reload()
	if n := evaluate[int](v, `client.pending().then((all) => all.length + outcomes.length)`); n != 0 {
		t.Errorf("%d intentions or outcomes came again although they were seen", n)
	}
}

func reloadWithLostReplies(t *testing.T, b *bank, browser context.Context) {
	b.afflict(func(r request) fault {
		if r.method == "POST" && r.number <= 3 {
			return loseReply
		}
		return none
	})
	v := visit(t, browser, b.url+"/test/page.html?user=rosa", "")
	for i := range 5 {
		v.deposit(fmt.Sprintf("lost-%d", i), "rosa", "")
	}
	v.reload()
	v.until(`client.pending().then((all) => all.length === 0)`)
	b.once("rosa", 5)
}

func offlineAndBack(t *testing.T, b *bank, browser context.Context) {
	v := visit(t, browser, b.url+"/test/page.html?user=olga", "")
	v.offline(true)
	v.until(`navigator.onLine === false`)
	for i := range 7 {
		v.deposit(fmt.Sprintf("offline-%d", i), "olga", "")
	}
	if n := evaluate[int](v, `client.pending().then((all) => all.length)`); n != 7 {
		t.Errorf("%d intentions are pending; want 7", n)
	}
	if n, _ := b.effects("olga"); n != 0 {
		t.Fatalf("%d deposits came through although the browser is offline", n)
	}
	evaluate[any](v, `window.progress = []; client.drain({ onProgress: (p) => progress.push(p) }).then((end) => { window.drained = end; }); null`)
	v.offline(false)
	v.until(`window.drained`)
	for i := range 7 {
		v.until(`ends["offline-%d"]?.startsWith("completed 200")`, i)
	}
	b.once("olga", 7)
	v.offline(true)
	v.until(`navigator.onLine === false`)
	v.deposit("undrained", "olga", "")
	began := time.Now()
	v.offline(false)
	v.until(`ends.undrained?.startsWith("completed 200")`)
	// Without the browser's event it is found out by a try, every ten seconds.
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("it took %v from being online to the outcome", took)
	}
	if n := len(b.sends("undrained")); n != 1 {
		t.Errorf("it was sent %d times; it has to wait while the browser is offline", n)
	}
	if got := evaluate[string](v, `JSON.stringify([progress[0], progress.at(-1), drained])`); got != `[{"done":0,"left":7},{"done":7,"left":0},{"done":7}]` {
		t.Errorf("drain said %s", got)
	}
}

func twoTabs(t *testing.T, b *bank, browser context.Context) {
	one := visit(t, browser, b.url+"/test/page.html?user=tina", "")
	two := visit(t, browser, b.url+"/test/page.html?user=tina", "")
	for _, v := range []*tab{one, two} {
		v.deposit("both", "tina", "tina")
	}
	poll(t, "the server has it", func() bool { return len(b.sends("both")) > 0 })
	b.release("tina")
	for _, v := range []*tab{one, two} {
		v.until(`ends.both === "completed 200 100"`)
		v.until(`outcomes.some((o) => o.key === "both")`)
	}
	b.once("tina", 1)
	if n := len(b.sends("both")); n != 1 {
		t.Errorf("the two tabs sent %d times; one of them sends", n)
	}
}

func sendingTabCloses(t *testing.T, b *bank, browser context.Context) {
	one := visit(t, browser, b.url+"/test/page.html?user=cleo", "")
	one.deposit("orphan", "cleo", "cleo")
	poll(t, "the server has it", func() bool { return len(b.sends("orphan")) > 0 })
	two := visit(t, browser, b.url+"/test/page.html?user=cleo", "")
	two.deposit("waiting", "cleo", "")
	if err := chromedp.Cancel(one.ctx); err != nil {
		t.Fatal(err)
	}
	b.release("cleo")
	two.until(`outcomes.some((o) => o.key === "orphan") && ends.waiting?.startsWith("completed")`)
	b.once("cleo", 2)
}

// sendingTabFrozen has a page hold the lead that answers nobody, as one does
// that its browser has put to sleep.
func sendingTabFrozen(t *testing.T, b *bank, browser context.Context) {
	frozen := visit(t, browser, b.url+"/test/page.html?user=unused", "")
	evaluate[any](frozen, `new Promise((held) => { navigator.locks.request("semel " + location.origin + "/api fred", () => { held(); return new Promise(() => {}); }).catch(() => {}); })`)
	v := visit(t, browser, b.url+"/test/page.html?user=fred", "")
	v.deposit("stolen", "fred", "")
	v.until(`ends.stolen === "completed 200 100"`)
	b.once("fred", 1)
}

func faults(t *testing.T, b *bank, browser context.Context) {
	kinds := []fault{loseRequest, loseReply, overloaded, loginPage}
	b.afflict(func(r request) fault {
		if r.method == "POST" && r.number <= len(kinds) {
			return kinds[r.number-1]
		}
		return none
	})
	v := visit(t, browser, b.url+"/test/page.html?user=fay", "")
	for i := range 6 {
		v.deposit(fmt.Sprintf("fault-%d", i), "fay", "")
	}
	for i := range 6 {
		v.until(`ends["fault-%d"]?.startsWith("completed 200")`, i)
	}
	b.once("fay", 6)
	for i := range 6 {
		sent := b.sends(fmt.Sprintf("fault-%d", i))
		if len(sent) <= len(kinds) {
			t.Errorf("intention %d was sent %d times; not every fault happened", i, len(sent))
			continue
		}
		if gap := sent[3].at.Sub(sent[2].at); gap < 900*time.Millisecond {
			t.Errorf("intention %d came again %v after a 503 with Retry-After: 1", i, gap)
		}
	}
	if got := evaluate[string](v, `[...new Set(tries.filter((t) => t.error).map((t) => t.error.class))].sort().join()`); got != "connection,malformed,server" {
		t.Errorf("the classes of the failures are %q", got)
	}
}

// streamCut cuts the stream, and lets an operation end before it is open
// again: the outcome comes from the log, by the position of the last event.
func streamCut(t *testing.T, b *bank, browser context.Context) {
	streams := func() []request {
		return b.seen(func(r request) bool { return r.who == "sue" && r.path == "/operations/events" })
	}
	looks := func() int {
		return len(b.seen(func(r request) bool { return r.who == "sue" && r.method == "GET" && r.path != "/operations/events" }))
	}
	v := visit(t, browser, b.url+"/test/page.html?user=sue&wait=0", "")
	v.deposit("first", "sue", "sue-1")
	v.deposit("second", "sue", "sue-2")
	poll(t, "a stream is open", func() bool { return len(streams()) > 0 && looks() >= 2 })
	b.release("sue-1")
	v.until(`ends.first === "completed 200 100"`)
	b.afflict(func(r request) fault {
		if r.path == "/operations/events" {
			return held
		}
		return none
	})
	looked := looks()
	b.cutStreams()
	poll(t, "it comes back", func() bool { return len(streams()) == 2 })
	b.release("sue-2")
	poll(t, "it happened", func() bool { n, _ := b.effects("sue"); return n == 2 })
	b.release("network")
	v.until(`ends.second === "completed 200 200"`)
	b.once("sue", 2)
	if last := streams()[len(streams())-1]; last.lastEventID == "" || last.lastEventID == "0" {
		t.Errorf("the last stream was opened with Last-Event-ID %q; want a position", last.lastEventID)
	}
	if n := looks() - looked; n > 0 {
		t.Errorf("the operation was looked at %d times after the cut; the stream is to tell", n)
	}
}

func overSocket(t *testing.T, b *bank, browser context.Context) {
	v := visit(t, browser, b.url+"/test/page.html?user=sam&wait=0&push=socket", "")
	v.deposit("wired", "sam", "sam")
	poll(t, "a socket is open", func() bool {
		return len(b.seen(func(r request) bool { return r.path == "/operations/socket" })) > 0
	})
	b.release("sam")
	v.until(`ends.wired === "completed 200 100"`)
	b.once("sam", 1)
}

func noStreams(t *testing.T, b *bank, browser context.Context) {
	b.afflict(func(r request) fault {
		if r.path == "/operations/events" {
			return noStream
		}
		return none
	})
	v := visit(t, browser, b.url+"/test/page.html?user=nora&wait=0", "")
	v.deposit("polled", "nora", "nora")
	poll(t, "it polls", func() bool {
		return len(b.seen(func(r request) bool {
			return r.who == "nora" && r.method == "GET" && r.path != "/operations/events" && r.number == 1
		})) > 0
	})
	b.release("nora")
	v.until(`ends.polled === "completed 200 100"`)
	b.once("nora", 1)
}

func otherUser(t *testing.T, b *bank, browser context.Context) {
	ann := visit(t, browser, b.url+"/test/page.html?user=ann&wait=0", "")
	bob := visit(t, browser, b.url+"/test/page.html?user=bob&wait=0", "")
	ann.deposit("same-key", "ann", "ann")
	bob.deposit("bobs", "bob", "bob")
	if got := evaluate[string](bob, `client.pending().then((all) => all.map((p) => p.key).join())`); got != "bobs" {
		t.Errorf("bob sees %q pending; want his own", got)
	}
	b.release("ann")
	ann.until(`ends["same-key"] === "completed 200 100"`)
	b.release("bob")
	bob.until(`ends.bobs === "completed 200 100"`)
	if got := evaluate[string](bob, `[...new Set([...outcomes, ...tries].map((o) => o.key))].join()`); got != "bobs" {
		t.Errorf("bob was told of %q; want bobs only", got)
	}
	if got := b.seen(func(r request) bool { return r.who == "bob" && r.key == "same-key" }); len(got) > 0 {
		t.Error("ann's command was sent with bob's credentials")
	}
	dump := `(async () => {
		const all = [Object.entries(localStorage), Object.entries(sessionStorage)];
		for (const { name } of await indexedDB.databases()) {
			const db = await new Promise((ok) => { indexedDB.open(name).onsuccess = (e) => ok(e.target.result); });
			for (const s of db.objectStoreNames) all.push(await new Promise((ok) => { db.transaction(s).objectStore(s).getAll().onsuccess = (e) => ok(e.target.result); }));
			db.close();
		}
		return JSON.stringify(all);
	})()`
	stored := evaluate[string](bob, "%s", dump)
	if !strings.Contains(stored, "same-key") {
		t.Errorf("the dump of what is stored is not one: %s", stored)
	}
	if strings.Contains(stored, "secret-of-") || strings.Contains(stored, "Bearer") {
		t.Errorf("a secret is stored: %s", stored)
	}
}

func signedOut(t *testing.T, b *bank, browser context.Context) {
	v := visit(t, browser, b.url+"/test/page.html?user=uma", "")
	evaluate[any](v, `token = ""; null`)
	v.deposit("signed-out", "uma", "")
	v.until(`ends["signed-out"] === "SendError unauthorized 401" && trouble[0] === "unauthorized"`)
	if n := evaluate[int](v, `client.pending().then((all) => all.length)`); n != 1 {
		t.Errorf("%d intentions are pending; a signed-out user loses none", n)
	}
	evaluate[any](v, `token = "uma"; client.drain().then(() => { window.drained = true; }); null`)
	v.until(`window.drained && outcomes.some((o) => o.key === "signed-out" && o.state === "completed")`)
	b.once("uma", 1)
}

func refusedAndCanceled(t *testing.T, b *bank, browser context.Context) {
	v := visit(t, browser, b.url+"/test/page.html?user=carl", "")
	evaluate[any](v, `deposit("no", "carl", "", -1)`)
	v.until(`ends.no === "Rejected nothing 409"`)
	evaluate[any](v, `client.submit("unheard-of", {}, { key: "unknown" }).then((i) => i.outcome()).catch((err) => { ends.unknown = err.class + " " + err.type; }); null`)
	v.until(`ends.unknown === "invalid unknown-command"`)
	got := evaluate[string](v, `client.submit("deposit", { account: "carl", cents: 5 }, { key: "no" }).catch((err) => err.class)`)
	if got != "reused" {
		t.Errorf("another body under the same key was %q; want reused", got)
	}
	evaluate[any](v, `(async () => {
		const intention = await client.submit({ method: "PUT", path: "/accounts/{account}/deposits/{key}" }, { account: "carl", cents: 100 }, { key: "bound" });
		const end = await intention.outcome();
		ends.bound = end.body.balance;
	})()`)
	v.until(`ends.bound === 100`)
	v.offline(true)
	v.until(`navigator.onLine === false`)
	if sure := evaluate[bool](v, `client.submit("deposit", { account: "carl", cents: 100 }, { key: "never" }).then(async (i) => { i.outcome().catch((err) => { ends.never = err.class; }); return i.cancel(); })`); !sure {
		t.Error("what was not sent was not canceled with certainty")
	}
	v.until(`ends.never === "canceled"`)
	v.offline(false)
	evaluate[any](v, `deposit("held", "carl", "carl")`)
	poll(t, "the server has it", func() bool { return len(b.sends("held")) > 0 })
	if sure := evaluate[bool](v, `client.pending().then((all) => all[0].cancel())`); sure {
		t.Error("what was sent is said to be canceled with certainty")
	}
	v.until(`ends.held?.startsWith("SendError canceled")`)
	b.release("carl")
	poll(t, "it happened all the same", func() bool { n, _ := b.effects("carl"); return n == 2 })
	if len(b.sends("never")) > 0 {
		t.Error("what was canceled was sent")
	}
}

// poorBrowser takes away what not every page has: first IndexedDB and Web
// Locks, then all that lasts.
func poorBrowser(t *testing.T, b *bank, browser context.Context) {
	const noLocks = `delete Navigator.prototype.locks; delete window.indexedDB; delete Window.prototype.indexedDB;`
	one := visit(t, browser, b.url+"/test/page.html?user=polly", noLocks)
	two := visit(t, browser, b.url+"/test/page.html?user=polly", noLocks)
	if got := evaluate[string](one, `client.durability()`); got != "localstorage" {
		t.Errorf("the store is %q; want localstorage", got)
	}
	if got := evaluate[string](one, `warnings.join()`); !strings.Contains(got, "localStorage") {
		t.Errorf("the page was warned %q; it has to hear of localStorage", got)
	}
	for _, v := range []*tab{one, two} {
		v.deposit("poor", "polly", "polly")
	}
	poll(t, "the server has it", func() bool { return len(b.sends("poor")) > 0 })
	one.reload()
	b.release("polly")
	for _, v := range []*tab{one, two} {
		v.until(`outcomes.some((o) => o.key === "poor")`)
	}
	b.once("polly", 1)
	bare := visit(t, browser, b.url+"/test/page.html?user=penny", noLocks+`Object.defineProperty(window, "localStorage", { get() { throw new Error("forbidden"); } });`)
	if got := evaluate[string](bare, `client.durability().then((kind) => kind + " " + warnings.join())`); !strings.HasPrefix(got, "memory") || !strings.Contains(got, "LOST") {
		t.Errorf("without any storage it is %q; want memory, said loudly", got)
	}
	bare.deposit("bare", "penny", "")
	bare.until(`ends.bare === "completed 200 100"`)
	b.once("penny", 1)
}
