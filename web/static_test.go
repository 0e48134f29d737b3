package web_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/PuerkitoBio/goquery"
)

func get(t *testing.T, handler http.Handler, method, path, encoding string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	r.Header.Set("Accept-Encoding", encoding)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestStaticServesWhatPagesLoad(t *testing.T) {
	t.Parallel()
	pages := newPages(t)
	var urls []string
	render(t, pages, views()["connect"]).Find("link[href], img[src]").Each(func(_ int, s *goquery.Selection) {
		urls = append(urls, s.AttrOr("href", s.AttrOr("src", "")))
	})
	if len(urls) != 4 {
		t.Fatalf("the page loads %v, want icon, pico, app and the logo", urls)
	}
	for _, url := range urls {
		plain, zipped := get(t, pages.Static(), http.MethodGet, url, ""), get(t, pages.Static(), http.MethodGet, url, "br, gzip;q=0.5")
		if plain.Code != http.StatusOK || plain.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: %d, encoding %q", url, plain.Code, plain.Header().Get("Content-Encoding"))
		}
		if got := plain.Header().Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
			t.Errorf("%s: Cache-Control = %q", url, got)
		}
		if zipped.Header().Get("Content-Encoding") != "gzip" || zipped.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s isn't compressed: %v", url, zipped.Header())
		}
		unzip, err := gzip.NewReader(zipped.Body)
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(plain.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(unzip); err != nil || string(got) != string(want) || len(want) == 0 {
			t.Errorf("%s: unpacked to %d bytes (%v), want %d", url, len(got), err, len(want))
		}
	}
}

func TestStaticRefusesAllElse(t *testing.T) {
	t.Parallel()
	static := newPages(t).Static()
	for path, want := range map[string]int{
		"/static/":                      http.StatusNotFound,
		"/static/app.css":               http.StatusNotFound, // without its hash
		"/static/app.000000000000.css":  http.StatusNotFound,
		"/static/../templates/a.html":   http.StatusNotFound,
		"/static/%2e%2e/static/app.css": http.StatusNotFound,
		"/elsewhere":                    http.StatusNotFound,
	} {
		if got := get(t, static, http.MethodGet, path, "").Code; got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
	}
	if got := get(t, static, http.MethodPost, "/static/app.css", ""); got.Code != http.StatusMethodNotAllowed || got.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow %q", got.Code, got.Header().Get("Allow"))
	}
}

func TestStaticGzipRefused(t *testing.T) {
	t.Parallel()
	pages := newPages(t)
	url := render(t, pages, views()["connect"]).Find("link[rel=stylesheet]").First().AttrOr("href", "")
	for encoding, want := range map[string]string{
		"gzip": "gzip", "GZIP": "gzip", "gzip;q=1": "gzip", "deflate, gzip": "gzip",
		"": "", "br": "", "gzip;q=0": "", "gzip; q=0.0": "", "xgzip": "",
	} {
		if got := get(t, pages.Static(), http.MethodHead, url, encoding).Header().Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: Content-Encoding = %q, want %q", encoding, got, want)
		}
	}
}
