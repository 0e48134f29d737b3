package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/connect-prisma/server/internal/nodetest"
	"github.com/connect-prisma/server/internal/processtest"
)

// connectLink is what a user opens to connect.
var connectLink = regexp.MustCompile(`https?://\S+/connect/[A-Za-z0-9_-]+`)

// attended runs a block that waits for what a reader pastes: the address that a browser
// came back to from the link that was printed, before or by the block itself.
func (s *shell) attended(t *testing.T, text string) []byte {
	t.Helper()
	out := &watched{link: make(chan string, 1)}
	if s.link != "" {
		out.link <- s.link
		s.link = ""
	}
	s.execute(t, text, out, func(cmd *exec.Cmd) error {
		input, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case link := <-out.link:
			_, err = io.WriteString(input, s.consent(t, link)+"\n")
			return errors.Join(err, input.Close(), <-ended)
		case err := <-ended:
			return errors.Join(errors.New("it printed no link to open"), err)
		}
	})
	return out.Bytes()
}

// watched is output in which the first connect link is looked for as it comes.
type watched struct {
	mu     sync.Mutex
	output bytes.Buffer
	found  bool
	link   chan string // has room for one
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.output.Write(p)
	// A whole line: half a link must not be taken for one.
	whole := w.output.Bytes()[:bytes.LastIndexByte(w.output.Bytes(), '\n')+1]
	if link := connectLink.Find(whole); link != nil && !w.found {
		w.found = true
		select {
		case w.link <- string(link):
		default: // one that was printed before is being opened
		}
	}
	return n, err
}

func (w *watched) Bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.output.Bytes())
}

func (w *watched) String() string { return string(w.Bytes()) }

// consents is a user at a browser: it opens the link, presses the button on our page,
// chooses the first workspace on the simulator's, and returns the address that it ends
// up at.
func consents(t *testing.T, dir string) func(t *testing.T, link string) string {
	t.Helper()
	var dev struct {
		SampleAppURL string
		WorkspaceIDs []string
	}
	content, err := os.ReadFile(filepath.Join(dir, ".dev", "dev.json"))
	if err == nil {
		err = json.Unmarshal(content, &dev)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, link string) string {
		t.Helper()
		b := processtest.NewCookieBrowser()
		started := b.Submit(t, b.Get(t, link), "form#connect", nil)
		approved := b.Submit(t, b.Get(t, started.Next(t).String()), "form",
			url.Values{"workspace": {dev.WorkspaceIDs[0]}, "decision": {"approve"}})
		back := b.Follow(t, approved, dev.SampleAppURL+"/callback").String()
		// The browser shows the page there too. It must not spend the code.
		if page := b.Get(t, back); page.Status != http.StatusForbidden {
			t.Errorf("the sample app answers %d to a session that it did not begin", page.Status)
		}
		return back
	}
}

// TestPartsAreThoseOfThePrograms: the parts that a document shows of a program stand in
// it, word for word and in this order. TestExamplesForPartners runs the programs.
func TestPartsAreThoseOfThePrograms(t *testing.T) {
	t.Parallel()
	for info, program := range map[string]string{
		"go part": "examples/quickstart/main.go",
		"ts part": "examples/typescript/connect.ts",
	} {
		// Parts in Go stand in a function.
		rest := regexp.MustCompile(`(?m)^\t`).ReplaceAllString(read(t, program), "")
		parts := 0
		for _, part := range blocks(read(t, "docs/partners.md")) {
			if part.info != info {
				continue
			}
			parts++
			_, after, found := strings.Cut(rest, part.text)
			if !found {
				t.Errorf("%s does not have, behind the parts before it:\n%s", program, part.text)
				continue
			}
			rest = after
		}
		if parts < 6 {
			t.Errorf("docs/partners.md shows %d parts of %s", parts, program)
		}
	}
}

// atHand puts the programs where the document looks for them, with the packages that the
// lock file names as `npm ci` would install them, and returns what is done differently.
func atHand(t *testing.T, dir string) *strings.Replacer {
	t.Helper()
	const example = "examples/typescript"
	for _, name := range []string{"connect.ts", "package.json", "package-lock.json", "tsconfig.json"} {
		to := filepath.Join(dir, example, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(read(t, filepath.Join(example, name))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	installed := nodetest.Installed(t, filepath.Join(root, example))
	return strings.NewReplacer("npm ci\n", "ln -s '"+installed+"/node_modules' node_modules\n",
		"go run ", "go run -C '"+here+"' ")
}
