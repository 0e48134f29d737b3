package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// staticPath is where Static must be mounted.
const staticPath = "/static/"

// asset is one static file, ready to be sent.
type asset struct {
	contentType string
	plain       []byte
	gzipped     []byte
}

// assetURLs maps a file's name to the URL that templates write.
type assetURLs map[string]string

// lookup is the template function "asset". A name that is not there is an error,
// so a misspelt one stops the start.
func (u assetURLs) lookup(name string) (string, error) {
	url, ok := u[name]
	if !ok {
		return "", fmt.Errorf("no static file %q", name)
	}
	return url, nil
}

// loadAssets reads static/ and names each file by its content: a changed file
// has another URL, so browsers may keep what they have for ever.
func loadAssets() (map[string]asset, assetURLs, error) {
	entries, err := fs.ReadDir(files, "static")
	if err != nil {
		return nil, nil, fmt.Errorf("list static files: %w", err)
	}
	assets, urls := make(map[string]asset), make(assetURLs)
	for _, entry := range entries {
		name := entry.Name()
		body, err := fs.ReadFile(files, "static/"+name)
		if err != nil {
			return nil, nil, fmt.Errorf("read static file: %w", err)
		}
		contentType, err := contentTypeOf(name)
		if err != nil {
			return nil, nil, err
		}
		var small bytes.Buffer
		zip := gzip.NewWriter(&small)
		if _, err := zip.Write(body); err != nil {
			return nil, nil, fmt.Errorf("compress %s: %w", name, err)
		}
		if err := zip.Close(); err != nil {
			return nil, nil, fmt.Errorf("compress %s: %w", name, err)
		}
		sum := sha256.Sum256(body)
		ext := path.Ext(name)
		hashed := strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext
		assets[hashed] = asset{contentType: contentType, plain: body, gzipped: small.Bytes()}
		urls[name] = staticPath + hashed
	}
	return assets, urls, nil
}

// contentTypeOf doesn't ask package mime, whose answers depend on the machine.
func contentTypeOf(name string) (string, error) {
	switch path.Ext(name) {
	case ".css":
		return "text/css; charset=utf-8", nil
	case ".js":
		return "text/javascript; charset=utf-8", nil
	case ".svg":
		return "image/svg+xml", nil
	case ".txt":
		return "text/plain; charset=utf-8", nil
	default:
		return "", fmt.Errorf("static file %s has a type that is not served", name)
	}
}

// Static serves GET and HEAD /static/<name>.<hash>.<ext>. What is there may be
// cached for ever; anything else is 404.
func (p *Pages) Static() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			header.Set("Allow", "GET, HEAD")
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		name, ok := strings.CutPrefix(r.URL.Path, staticPath)
		file, found := p.assets[name]
		if !ok || !found {
			header.Set("Cache-Control", "no-store")
			http.Error(w, "Not Found", http.StatusNotFound)
			return
		}
		header.Set("Content-Type", file.contentType)
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
		header.Set("Vary", "Accept-Encoding")
		body := file.plain
		if acceptsGzip(r.Header.Values("Accept-Encoding")) {
			header.Set("Content-Encoding", "gzip")
			body = file.gzipped
		}
		header.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(body) // a client that went away needs no answer
		}
	})
}

// acceptsGzip reports whether gzip is named and not refused by "q=0".
func acceptsGzip(values []string) bool {
	for coding := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name, params, _ := strings.Cut(coding, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			weight, _ := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
			q, err := strconv.ParseFloat(weight, 64)
			return err != nil || q > 0
		}
	}
	return false
}
