package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/devpg"
	"github.com/connect-prisma/server/internal/nodetest"
)

// startLimit bounds a start of dev, which may have to make a cluster first.
const startLimit = 90 * time.Second

// block is a fenced part of a document.
type block struct {
	info string // what stands behind the opening fence
	text string
}

func blocks(text string) []block {
	var found []block
	for _, m := range regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		found = append(found, block{info: m[1], text: m[2]})
	}
	return found
}

// shell runs the examples of one document, one after another, in one directory.
// Variables live on from block to block, as they do in a reader's shell, and programs see
// those that the document exports.
type shell struct {
	dir     string
	env     []string
	unseen  string // what makes the variables again that are not exported
	replace *strings.Replacer
	ran     int

	link    string // the last connect link that was printed and not opened yet
	consent func(t *testing.T, link string) string
}

// newShell has server on its PATH and none of libpq's variables.
func newShell(dir, binary string, env ...string) *shell {
	s := &shell{dir: dir, env: slices.Clone(env), replace: strings.NewReplacer()}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case name == "PATH":
			s.env = append(s.env, "PATH="+filepath.Dir(binary)+":"+value)
		case !strings.HasPrefix(name, "PG") && name != "DATABASE_URL" && name != "ENVIRONMENT":
			s.env = append(s.env, entry)
		}
	}
	return s
}

// run runs the examples of a text. What one prints has the shape of the JSON block
// that follows it directly.
func (s *shell) run(t *testing.T, text string) {
	t.Helper()
	all := blocks(text)
	for i, example := range all {
		switch example.info {
		case "ts test":
			s.module(t, example.text)
		case "sh test":
			out := s.block(t, example.text)
			s.link = string(connectLink.Find(out))
			if i+1 < len(all) && all[i+1].info == "json" {
				sameShape(t, all[i+1].text, out)
			}
		case "sh browser":
			out := s.attended(t, example.text)
			if i+1 < len(all) && all[i+1].info == "json" {
				sameShape(t, all[i+1].text, out)
			}
		case "sh test background":
			s.background(t, example.text)
		}
	}
}

func (s *shell) block(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	s.execute(t, text, &out, func(cmd *exec.Cmd) error { return cmd.Run() })
	return out.Bytes()
}

// execute runs a block by means of run, with its output going to out, and keeps the
// variables that it leaves.
func (s *shell) execute(t *testing.T, text string, out io.Writer, run func(*exec.Cmd) error) {
	t.Helper()
	state := t.TempDir()
	script := "set -euo pipefail\nbash_has=$(compgen -v)\n" + s.unseen + s.replace.Replace(text) + "\ncd '" + state + "'\n" + keepVariables
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = s.dir, s.env
	var diagnostics bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &diagnostics
	if err := run(cmd); err != nil {
		t.Fatalf("%v:\n%s\nit printed: %s\nand said: %s", err, text, out, diagnostics.Bytes())
	}
	env, err := os.ReadFile(filepath.Join(state, "env"))
	unseen, unseenErr := os.ReadFile(filepath.Join(state, "unseen"))
	if err := errors.Join(err, unseenErr); err != nil {
		t.Fatal(err)
	}
	s.env, s.unseen = strings.Split(strings.TrimSuffix(string(env), "\x00"), "\x00"), string(unseen)
	s.ran++
}

// keepVariables writes the environment to env, and to unseen what declares the other
// variables that bash does not have by itself.
const keepVariables = `env -0 >env
for its_name in $(comm -13 <(sort <<<"$bash_has
bash_has
its_name") <(compgen -v | sort)); do
	[[ ${!its_name@a} == *x* ]] || declare -p "$its_name"
done >unseen
`

// module runs an example in TypeScript that has no types of its own, with the reader's
// variables in its environment and Prisma's SDK installed.
func (s *shell) module(t *testing.T, text string) {
	t.Helper()
	installed := nodetest.Installed(t, filepath.Join(root, "internal/prisma/sdkcompare/testdata"))
	process := nodetest.Start(t, installed, []byte(s.replace.Replace(text)+"\nprocess.exit(0);\n"), func(cmd *exec.Cmd) error {
		cmd.Env = s.env
		return nil
	})
	defer process.Kill()
	if err := process.Wait(); err != nil || process.Said.Len() > 0 {
		t.Fatalf("%v:\n%s\nit said: %s", err, text, process.Said)
	}
	s.ran++
}

// background starts one command, which has to end cleanly when the test is over.
func (s *shell) background(t *testing.T, text string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-c", "exec "+s.replace.Replace(text))
	cmd.Dir, cmd.Env = s.dir, s.env
	start(t, cmd)
	s.ran++
}

// start starts a process and, when the test ends, asks it to end too.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var result error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result = cmd.Wait()
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s was gone before the test ended: %v", cmd.Args[0], err)
		}
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Errorf("%s does not end", cmd.Args[0])
			_ = cmd.Process.Kill() // that it hung is reported already
			<-ended
		}
		if result != nil {
			t.Errorf("%s ended with %v and said:\n%s", cmd.Args[0], result, said.Bytes())
		}
	})
}

// sameShape compares JSON by members and kinds of values, not by the values.
func sameShape(t *testing.T, documented string, printed []byte) {
	t.Helper()
	var want, got any
	if err := json.Unmarshal([]byte(documented), &want); err != nil {
		t.Fatalf("the documented answer is not JSON: %v\n%s", err, documented)
	}
	if err := json.Unmarshal(printed, &got); err != nil {
		t.Fatalf("the answer is not JSON: %v", err)
	}
	wanted, gotten := shape(want, "answer"), shape(got, "answer")
	slices.Sort(wanted)
	slices.Sort(gotten)
	if wanted, gotten = slices.Compact(wanted), slices.Compact(gotten); !slices.Equal(wanted, gotten) {
		t.Errorf("documented:\n  %s\nanswered:\n  %s", strings.Join(wanted, "\n  "), strings.Join(gotten, "\n  "))
	}
}

func shape(value any, at string) []string {
	var lines []string
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			lines = append(lines, shape(member, at+"."+name)...)
		}
	case []any:
		lines = append(lines, at+" is a list")
		for _, item := range value {
			lines = append(lines, shape(item, at+"[]")...)
		}
	default:
		lines = append(lines, fmt.Sprintf("%s is a %T", at, value))
	}
	return lines
}

// workspace is a directory that other accounts may enter too: as root, Postgres
// runs as one of them.
func workspace(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, one := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(one, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// scratch is a directory of this run; TestMain makes and removes it.
var scratch string

// built is where the program lies, built once for all tests of this package.
var built = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(scratch, "server")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-race", "-o", binary, "./cmd/server")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	os.Exit(inScratch(m.Run))
}

func inScratch(run func() int) int {
	dir, err := os.MkdirTemp("", "connect-prisma-docs-")
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n") // there is nowhere else to say it
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	return run()
}

func program(t *testing.T) string {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// startDev starts dev in dir, as `make dev` does, on free ports.
func startDev(t *testing.T, dir, binary string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, ".dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "dev", "--listen", "127.0.0.1:0",
		"--simulator-listen", "127.0.0.1:0", "--sample-listen", "127.0.0.1:0")
	cmd.Dir, cmd.Env = dir, newShell(dir, binary).env
	start(t, cmd)

	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	for {
		if _, err := os.Stat(filepath.Join(dir, ".dev", "dev.json")); err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatal("dev wrote no dev.json")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestExamplesForPartners runs docs/partners.md and the tour of the README against
// one dev. The tour comes while the connection that partners.md makes is there.
func TestExamplesForPartners(t *testing.T) {
	t.Parallel()
	dir, binary := workspace(t), program(t)
	startDev(t, dir, binary)

	before, after, found := strings.Cut(read(t, "docs/partners.md"), "\n## Later\n")
	if !found {
		t.Fatal("docs/partners.md has no part named Later")
	}
	partner := newShell(dir, binary)
	partner.consent = consents(t, dir)
	partner.replace = atHand(t, dir)
	partner.run(t, before)
	tour := newShell(dir, binary)
	tour.run(t, read(t, "README.md"))
	partner.run(t, after)
	if partner.ran < 11 || tour.ran < 2 {
		t.Errorf("%d examples for partners and %d of the tour ran", partner.ran, tour.ran)
	}
	checkStatuses(t, dir)
}

// checkStatuses compares the table of errors with the pages that explain them.
func checkStatuses(t *testing.T, dir string) {
	t.Helper()
	var dev struct{ PublicURL string }
	content, err := os.ReadFile(filepath.Join(dir, ".dev", "dev.json"))
	if err == nil {
		err = json.Unmarshal(content, &dev)
	}
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second}
	for _, row := range table(t, "docs/partners.md", "type") {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, dev.PublicURL+"/problems/"+row[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // it was read to its end
		if err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("the page of %s: %v, %s", row[0], err, response.Status)
		}
		if !bytes.Contains(page, []byte("HTTP status "+row[1])) {
			t.Errorf("%s does not have the status %s", row[0], row[1])
		}
	}
}

// TestExamplesForOperators runs docs/operators.md from an empty Postgres server to a
// replica that is ready.
func TestExamplesForOperators(t *testing.T) {
	t.Parallel()
	dir, binary := workspace(t), program(t)
	server, err := devpg.Start(t.Context(), devpg.Config{Dir: filepath.Join(dir, "postgres"), Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Errorf("stop Postgres: %v", err)
		}
	})

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	admin, _, _ := strings.Cut(server.URL("postgres"), "/postgres?")
	operator := newShell(dir, binary,
		"ADMIN_URL="+strings.TrimSuffix(admin, "/postgres"), fmt.Sprintf("DATABASE_HOST=127.0.0.1:%d", server.Port()),
		"LISTEN_ADDR="+address)
	operator.replace = strings.NewReplacer("localhost:8080", address) // where the replica of this test listens
	operator.run(t, read(t, "docs/operators.md"))
	if operator.ran < 7 {
		t.Errorf("%d examples for operators ran", operator.ran)
	}
}

// TestSecretsTable asks the program which settings it also reads from files: it
// refuses a file that is not there, and knows of no file for the others.
func TestSecretsTable(t *testing.T) {
	t.Parallel()
	binary := program(t)
	for _, row := range table(t, "docs/operators.md", "variable") {
		variable := row[0] + "_FILE"
		cmd := exec.CommandContext(t.Context(), binary, "migrate")
		cmd.Env = []string{variable + "=" + filepath.Join(t.TempDir(), "absent")}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Fatalf("migrate without settings succeeded:\n%s", out)
		}
		if read := bytes.Contains(out, []byte(variable)); read != (row[1] == "yes") {
			t.Errorf("the table says %q of %s being a secret; the program said: %s", row[1], row[0], out)
		}
	}
}
