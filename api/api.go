// Package api holds the contract of the partner API: openapi.yaml, OpenAPI 3.1, written
// by hand. Server interfaces and types are generated from it, requests and, in tests,
// answers are validated against it, and partners read it.
package api

import (
	"bytes"
	_ "embed" // the contract is part of the binary
	"encoding/json"
	"fmt"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"go.yaml.in/yaml/v3"
)

//go:embed openapi.yaml
var document []byte

// load parses the contract once in a process.
//
//nolint:gochecknoglobals // the parsed form of embedded, constant bytes; never changed
var load = sync.OnceValues(func() (*openapi3.T, error) {
	loader := openapi3.NewLoader()
	loader.IncludeOrigin = true // maps lose the order in which things are written; lines keep it
	doc, err := loader.LoadFromData(document)
	if err != nil {
		return nil, fmt.Errorf("load the contract: %w", err)
	}
	return doc, nil
})

// Load returns the parsed contract. Every call returns the same one, for any number of
// goroutines to read: do not change it.
func Load() (*openapi3.T, error) { return load() }

// JSON returns the contract as JSON, in the order in which it is written, with server
// as its only server: an origin, no trailing slash.
func JSON(server string) ([]byte, error) {
	text, err := ordered()
	if err != nil {
		return nil, err
	}
	quoted, err := json.Marshal(server)
	if err != nil {
		return nil, fmt.Errorf("encode the server: %w", err)
	}
	return bytes.Replace(text, []byte(`"`+noServer+`"`), quoted, 1), nil
}

// noServer stands where the server's address belongs.
const noServer = "https://no-server.invalid"

// ordered translates the contract once in a process.
//
//nolint:gochecknoglobals // the translated form of embedded, constant bytes; never changed
var ordered = sync.OnceValues(func() ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("parse the contract: %w", err)
	}
	top := root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == "servers" {
			if err := top.Content[i+1].Encode([]map[string]string{{"url": noServer}}); err != nil {
				return nil, fmt.Errorf("set the server: %w", err)
			}
		}
	}
	var out bytes.Buffer
	if err := writeJSON(&out, top); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
})

// writeJSON keeps the order of names, which a map would lose.
func writeJSON(out *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.AliasNode:
		return writeJSON(out, node.Alias)
	case yaml.MappingNode:
		out.WriteByte('{')
		for i := 0; i+1 < len(node.Content); i += 2 {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeValue(out, node.Content[i].Value); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := writeJSON(out, node.Content[i+1]); err != nil {
				return err
			}
		}
		out.WriteByte('}')
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, item := range node.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, item); err != nil {
				return err
			}
		}
		out.WriteByte(']')
	case yaml.ScalarNode:
		var value any
		if err := node.Decode(&value); err != nil {
			return fmt.Errorf("read line %d of the contract: %w", node.Line, err)
		}
		return writeValue(out, value)
	case yaml.DocumentNode:
		return fmt.Errorf("line %d of the contract is no value", node.Line)
	}
	return nil
}

func writeValue(out *bytes.Buffer, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode a value of the contract: %w", err)
	}
	out.Write(text)
	return nil
}
