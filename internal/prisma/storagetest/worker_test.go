package storagetest_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/storagetest"
)

// workerArg, as its first argument, makes the test binary a worker of the kill test.
const workerArg = "refresh-worker"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == workerArg {
		if err := work(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// work is a process that shares a token file with others. For each line that it reads,
// the offset of the test's clock in nanoseconds, it asks for an access token and writes
// "done" and what came of it. Meanwhile it tells each step of a refresh: "claimed",
// "saved" and "settled", with the generation; nothing is buffered, so that what it has
// told survives it.
func work(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 4 {
		return fmt.Errorf("%d arguments, want path, authorization server, client and secret", len(args))
	}
	clock := storagetest.NewClock(realTime)
	file, err := prisma.NewFileStorage(prisma.FileStorageConfig{Path: args[0], Now: clock.Now})
	if err != nil {
		return err
	}
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: args[1]})
	if err != nil {
		return err
	}
	refresher, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: oauth, Now: clock.Now, Settings: prisma.RefreshSettings{
		PollFrom: 2 * time.Millisecond, PollTo: 10 * time.Millisecond,
	}})
	if err != nil {
		return err
	}
	connection := prisma.Connection{
		Key: "file", Storage: &tellingStorage{FileStorage: file, out: out},
		Client: func(context.Context) (prisma.OAuthClient, error) {
			return prisma.OAuthClient{ID: args[2], Secret: args[3]}, nil
		},
	}
	var offset time.Duration
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var want int64
		if _, err := fmt.Sscan(lines.Text(), &want); err != nil {
			return err
		}
		clock.Advance(nil, time.Duration(want)-offset)
		offset = time.Duration(want)
		result := "ok"
		if _, err := refresher.AccessToken(context.Background(), connection); err != nil {
			result = cmp.Or(string(fault.KindOf(err)), "internal")
			if result == "internal" {
				fmt.Fprintln(os.Stderr, "worker:", err)
			}
		}
		fmt.Fprintln(out, "done", result)
	}
	return nil
}

// tellingStorage tells what a refresh does with the file.
type tellingStorage struct {
	*prisma.FileStorage

	out io.Writer
}

func (s *tellingStorage) Claim(ctx context.Context, refused prisma.Tokens) (prisma.Claim, error) {
	claim, err := s.FileStorage.Claim(ctx, refused)
	if claim.Due {
		fmt.Fprintln(s.out, "claimed", claim.Current.Generation)
	}
	return claim, err
}

func (s *tellingStorage) Save(ctx context.Context, claim prisma.Claim, fresh prisma.Tokens) error {
	err := s.FileStorage.Save(ctx, claim, fresh)
	if err == nil {
		fmt.Fprintln(s.out, "saved", claim.Current.Generation)
	}
	return err
}

func (s *tellingStorage) Settle(ctx context.Context, claim prisma.Claim, outcome prisma.Outcome) error {
	err := s.FileStorage.Settle(ctx, claim, outcome)
	if err == nil {
		fmt.Fprintln(s.out, "settled", claim.Current.Generation)
	}
	return err
}
