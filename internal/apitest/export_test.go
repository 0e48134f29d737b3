package apitest

import "net/http"

// Findings is what the end of the test would complain about; forget lets it pass.
func (w *World) Findings(forget bool) map[string]int {
	found := w.record.findings()
	if forget {
		w.record.forget()
	}
	return found
}

// SecretsIn returns which of the secrets are in a text.
func SecretsIn(secrets []string, text string) []string {
	kinds := make(map[string]string)
	for _, secret := range secrets {
		kinds[secret] = "planted"
	}
	return newFinder(kinds).in(text)
}

// Log writes to the log.
func (w *World) Log(line string) { _, _ = w.record.raw.Write([]byte(line + "\n")) }

// Watch passes a request to another handler in place of the service.
func (w *World) Watch(next http.Handler) http.Handler { return w.record.watch(next) }

func (r *record) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges, r.secrets = nil, map[string]string{}
}

// Recorded has a handler's answers recorded.
func Recorded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := newRecorder(w)
		defer answer.end()
		next.ServeHTTP(answer, r)
	})
}
