package browser_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/connect-prisma/server/internal/processtest"
)

// startChromium starts the browser that all browser tests share; each has cookies
// of its own there.
func startChromium(tb testing.TB) context.Context {
	tb.Helper()
	var path string
	for _, name := range []string{"/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome", chromeOfMacOS} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		tb.Fatal("Chromium is not installed, and the browser tests need it: `make test` installs it")
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.WithoutCancel(tb.Context()),
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-extensions", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("force-color-profile", "srgb"),
		// Nothing but the loopback is to be reached, whatever a page asks for.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"))
	browser, _ := chromedp.NewContext(allocator)
	tb.Cleanup(func() {
		limited, cancel := context.WithTimeout(browser, processtest.StopLimit)
		defer cancel()
		if err := chromedp.Cancel(limited); err != nil {
			tb.Errorf("stop Chromium: %v", err)
		}
		stopAllocator()
	})
	// The browser lives as long as the context of this first call, so it has no limit.
	if err := chromedp.Do(browser); err != nil {
		tb.Fatalf("start Chromium: %v", err)
	}
	return browser
}

const chromeOfMacOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"

// tab is a tab of the browser. Whatever goes wrong in it fails the test.
type tab struct {
	tb       testing.TB
	ctx      context.Context //nolint:containedctx // chromedp keeps the tab in it
	messages *messages
}

// messages are the warnings and errors of a tab's console.
type messages struct {
	mu   sync.Mutex
	text []string
}

func (m *messages) hear(event any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			address, _, _ := strings.Cut(e.Entry.URL, "?") // a query may hold a code
			m.text = append(m.text, string(e.Entry.Source)+": "+e.Entry.Text+" "+address)
		}
	case *runtime.EventExceptionThrown:
		m.text = append(m.text, "exception: "+e.ExceptionDetails.Text)
	}
}

// newBrowser opens the first tab of a browser without cookies.
func newBrowser(chromium context.Context, tb testing.TB) *tab {
	tb.Helper()
	return openTab(chromium, tb, chromedp.WithNewBrowserContext())
}

// another opens a further tab, with the same cookies.
func (t *tab) another() *tab {
	t.tb.Helper()
	return openTab(t.ctx, t.tb)
}

func openTab(parent context.Context, tb testing.TB, options ...chromedp.ContextOption) *tab {
	tb.Helper()
	t := &tab{tb: tb, messages: &messages{}}
	var cancel context.CancelFunc
	t.ctx, cancel = chromedp.NewContext(parent, append(options, chromedp.WithListener(t.messages.hear))...)
	tb.Cleanup(func() {
		cancel()
		t.messages.mu.Lock()
		defer t.messages.mu.Unlock()
		for _, text := range t.messages.text {
			tb.Errorf("the console says: %s", text)
		}
	})
	if err := chromedp.Do(t.ctx, call(log.Enable, cdp.Empty{})); err != nil { //nolint:contextcheck // it comes from parent, one line up
		tb.Fatalf("open a tab: %v", err)
	}
	t.desktop() //nolint:contextcheck // the tab is in the context that it keeps
	return t
}

// call is a protocol command whose result does not matter.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, command, params)
		return chromedp.Void{}, err
	}
}

// do runs steps, each of which names itself when it fails.
func (t *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	t.tb.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, processtest.CallLimit)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.tb.Fatalf("%s: %v\n%s", what, err, t.page())
	}
}

// page is what the tab shows, for a failure's message.
func (t *tab) page() string {
	ctx, cancel := context.WithTimeout(t.ctx, processtest.CallLimit)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href.split("?")[0] + "\n" + document.body.innerText`))
	if err != nil {
		return err.Error()
	}
	return text
}

func evaluate[T any](t *tab, expression string) T {
	t.tb.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, processtest.CallLimit)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.tb.Fatalf("evaluate %s: %v\n%s", expression, err, t.page())
	}
	return value
}

func (t *tab) open(address string) { t.tb.Helper(); t.do("open "+address, chromedp.Navigate(address)) }

// see waits until an element is visible.
func (t *tab) see(selector string) {
	t.tb.Helper()
	t.do("wait for "+selector, chromedp.WaitVisible(chromedp.CSS(selector)))
}

func (t *tab) click(selector string) {
	t.tb.Helper()
	t.do("click "+selector, chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
}

func (t *tab) write(selector, text string) {
	t.tb.Helper()
	t.do("write into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

func (t *tab) press(keys string) { t.tb.Helper(); t.do("press a key", chromedp.KeyEvent(keys)) }

// text returns an element's text as people see it.
func (t *tab) text(selector string) string {
	t.tb.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, processtest.CallLimit)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS(selector), chromedp.NodeVisible))
	if err != nil {
		t.tb.Fatalf("read %s: %v\n%s", selector, err, t.page())
	}
	return strings.TrimSpace(text)
}

// says checks that an element's text has all of the words.
func (t *tab) says(selector string, words ...string) {
	t.tb.Helper()
	text := t.text(selector)
	for _, want := range words {
		if !strings.Contains(text, want) {
			t.tb.Errorf("%s says %q, without %q", selector, text, want)
		}
	}
}

func (t *tab) phone() {
	t.tb.Helper()
	t.do("become a phone", chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulatePortrait))
}

func (t *tab) desktop() {
	t.tb.Helper()
	t.do("become a desktop", chromedp.EmulateViewport(1280, 800))
}

// check looks at the page as a whole, on a phone and on a desktop: nothing is cut
// off or has to be scrolled sideways, and what somebody hears or sees who can't see
// all of it makes sense. With SCREENSHOTS=directory it also takes a picture of both.
func (t *tab) check(name string) {
	t.tb.Helper()
	for _, screen := range []struct {
		name string
		set  func()
	}{{"phone", t.phone}, {"desktop", t.desktop}} {
		screen.set()
		for _, fault := range evaluate[[]string](t, pageFaults) {
			t.tb.Errorf("page %s on a %s: %s", name, screen.name, fault)
		}
		if dir := os.Getenv("SCREENSHOTS"); dir != "" {
			t.picture(filepath.Join(dir, name+"-"+screen.name+".png"))
		}
	}
}

func (t *tab) picture(file string) {
	t.tb.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, processtest.CallLimit)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(file, png, 0o600)
	}
	if err != nil {
		t.tb.Errorf("take a picture: %v", err)
	}
}

// pageFaults lists what is wrong with a page.
const pageFaults = `(() => {
  const faults = [];
  const all = (s) => [...document.querySelectorAll(s)];
  const want = (ok, fault) => { if (!ok) faults.push(fault); };
  const named = (e) => (e.getAttribute("aria-label") || e.textContent || "").trim() !== "" || e.querySelector("img[alt]:not([alt=''])");
  want(document.documentElement.lang === "en", "no language");
  want(document.title.trim() !== "", "no title");
  want(document.querySelector("meta[name=viewport][content*='width=device-width']"), "no viewport");
  want(all("main").length === 1, all("main").length + " main landmarks");
  want(all("h1").length === 1, all("h1").length + " first headings");
  let level = 0;
  for (const h of all("h1,h2,h3,h4,h5,h6")) {
    const next = Number(h.tagName[1]);
    want(next <= level + 1, "heading jumps to " + h.tagName + " " + h.innerText);
    level = next;
  }
  for (const e of all("input:not([type=hidden]),select,textarea")) want(e.labels.length > 0, "no label: " + e.outerHTML);
  for (const e of all("img")) want(e.hasAttribute("alt"), "no alt: " + e.outerHTML);
  for (const e of all("button,a,summary")) want(named(e), "no name: " + e.outerHTML);
  const ids = all("[id]").map((e) => e.id);
  for (const id of ids) want(ids.indexOf(id) === ids.lastIndexOf(id), "two elements have the id " + id);
  for (const e of all("[aria-labelledby],[aria-describedby]"))
    for (const id of ((e.getAttribute("aria-labelledby") || "") + " " + (e.getAttribute("aria-describedby") || "")).trim().split(/\s+/))
      want(document.getElementById(id), "refers to no element: " + id);
  want(all("[style],style,script:not([src]),[onclick],[onload]").length === 0, "something inline that the policy forbids");
  const wide = document.scrollingElement.scrollWidth - document.documentElement.clientWidth;
  want(wide <= 0, wide + " pixels too wide");
  for (const e of all("button,a[role=button],a.button,input:not([type=hidden]):not([type=radio]),select")) {
    const box = e.getBoundingClientRect();
    want(box.width === 0 || box.height >= 24, "hard to hit, " + Math.round(box.height) + " pixels high: " + e.outerHTML);
  }
  return faults;
})()`

// focus presses Tab until the element that matches has the focus, and checks that
// it can be seen to have it.
func (t *tab) focus(selector string) {
	t.tb.Helper()
	quoted := "document.activeElement.matches(" + quoteJS(selector) + ")"
	var passed []string
	for !evaluate[bool](t, quoted) {
		here := evaluate[string](t, `document.activeElement.tagName + " " + (document.activeElement.innerText || "").trim()`)
		if passed = append(passed, here); len(passed) > 30 {
			t.tb.Fatalf("thirty times Tab did not lead to %s but past %s", selector, strings.Join(slices.Compact(passed), ", "))
		}
		t.press("\t")
	}
	if !evaluate[bool](t, `(() => {
		const s = getComputedStyle(document.activeElement);
		return document.activeElement.matches(":focus-visible") && (s.outlineStyle !== "none" && s.outlineWidth !== "0px" || s.boxShadow !== "none");
	})()`) {
		t.tb.Errorf("nothing shows that %s has the focus", selector)
	}
}

func quoteJS(text string) string { return "'" + strings.ReplaceAll(text, "'", `\'`) + "'" }

// forgive drops the messages that tell of a status the test has asked for.
func (m *messages) forgive(statuses ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text = slices.DeleteFunc(m.text, func(text string) bool {
		return strings.HasPrefix(text, "network: Failed to load resource") &&
			slices.ContainsFunc(statuses, func(status string) bool { return strings.Contains(text, status) })
	})
}

// take drops the messages that contain the text and tells whether there were any.
func (m *messages) take(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.text)
	m.text = slices.DeleteFunc(m.text, func(message string) bool { return strings.Contains(message, text) })
	return len(m.text) < before
}
