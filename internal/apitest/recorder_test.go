package apitest_test

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
)

// A handler that cuts its connection off has no answer that could be passed on: to try
// would be noise in the log of every test whose upstream drops answers.
func TestAnAnswerThatIsCutOffIsNotPassedOn(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	cut := apitest.Recorded(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("Hijack() error = %v", err)
			return
		}
		_ = conn.Close()
	}))
	done := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		cut.ServeHTTP(w, r)
	}))
	defer server.Close()
	server.Config.ErrorLog = log.New(&logged, "", 0)
	server.Start()
	answer, err := server.Client().Get(server.URL) //nolint:noctx // the server is the test's
	if err == nil {
		_ = answer.Body.Close()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("GET: error = %v, want the connection to end", err)
	}
	<-done
	if logged.Len() > 0 {
		t.Errorf("logged: %s", logged.String())
	}
}
