package managementapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/oapi-codegen/nullable"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// prints returns a value as package fmt prints it with every verb and flag, and as slog
// logs it. The verb w belongs to fmt.Errorf alone, as vet knows.
func prints(value any) []string {
	var texts []string
	for _, flag := range []string{"", "+", "#", " ", "020"} {
		for _, verb := range "vsqxXdtcbofeUpTz" {
			texts = append(texts, fmt.Sprintf("%"+flag+string(verb), value))
		}
	}
	texts = append(texts, fmt.Sprint(value), fmt.Sprintln(value), fmt.Sprintf("%s %d", "a", value), fmt.Errorf("%v", value).Error())
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		logger := slog.New(handler).With(slog.Any("before", value))
		logger.Info("test", slog.Any("value", value), slog.Any("list", []any{value}), slog.Any("map", map[string]any{"a": value}))
	}
	return append(texts, log.String())
}

// encodings are the canary and how %x, %X and %q of it would look.
var encodings = []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprintf("% x", canary), "63 61 6e"}

func checkHidden(t *testing.T, value any) {
	t.Helper()
	for _, text := range prints(value) {
		for _, code := range encodings {
			if strings.Contains(text, code) {
				t.Errorf("a %T shows its secret: %.300s", value, text)
				return
			}
		}
	}
}

// A secret shows in no print, log or JSON, however it is held.
func TestSecretHides(t *testing.T) {
	t.Parallel()
	secret, empty := managementapi.NewSecret(canary), managementapi.NewSecret("")
	if secret.Reveal() != canary || secret.String() != "[secret]" || empty.Reveal() != "" || empty.String() != "" {
		t.Errorf("Reveal() = %q, String() = %q", secret.Reveal(), secret)
	}
	if secret != managementapi.NewSecret(canary) || !secret.Equal(managementapi.NewSecret(canary)) || secret.Equal(empty) {
		t.Error("secrets of the same value are not equal, or others are")
	}
	values := map[string]any{
		"itself": secret, "pointer": &secret, "list": []managementapi.Secret{secret}, "array": [1]managementapi.Secret{secret},
		"map": map[string]managementapi.Secret{"a": secret}, "key": map[managementapi.Secret]int{secret: 1},
		"nullable": nullable.NewNullableWithValue(secret),
		"struct":   struct{ A, B any }{secret, &secret},
		"unexported": struct {
			a managementapi.CreatedConnection
			b *managementapi.CreatedEndpoint
		}{managementapi.CreatedConnection{ConnectionString: secret}, &managementapi.CreatedEndpoint{ConnectionString: secret}},
	}
	for name, value := range values {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkHidden(t, value)
			text := encoded(t, value)
			if bytes.Contains(text, []byte(canary)) || name != "unexported" && !bytes.Contains(text, []byte("[secret]")) {
				t.Errorf("JSON = %s, want [secret]", text)
			}
		})
	}
}

// Every value that the overlay calls secret hides itself within every type that holds it.
func TestAnswersHideSecrets(t *testing.T) {
	t.Parallel()
	var holders int
	for _, value := range []any{
		new(managementapi.CreatedProject), new(managementapi.CreatedDatabase), new(managementapi.CreatedProjectDatabase),
		new(managementapi.CreatedConnection), new(managementapi.CreatedServiceToken), new(managementapi.CreatedBucketKey),
		new(managementapi.CreatedDeployment), new(managementapi.GithubActionsToken), new(managementapi.ScmInstallIntent),
		new(managementapi.Connection), new(managementapi.Database), new(managementapi.LegacyAPIKey),
	} {
		t.Run(reflect.TypeOf(value).Elem().Name(), func(t *testing.T) {
			t.Parallel()
			if n := plant(reflect.ValueOf(value).Elem()); n == 0 {
				t.Fatal("the type holds no secret")
			}
			for _, held := range []any{reflect.ValueOf(value).Elem().Interface(), value, []any{value}} {
				checkHidden(t, held)
				if text := encoded(t, held); bytes.Contains(text, []byte(canary)) {
					t.Errorf("JSON shows a secret: %s", text)
				}
			}
		})
		holders++
	}
	if holders == 0 {
		t.Error("no type holds a secret")
	}
}

// plant fills every field within value and puts the canary into each Secret; it returns
// how many there are.
func plant(value reflect.Value) int {
	if value.Type() == reflect.TypeFor[managementapi.Secret]() {
		value.Set(reflect.ValueOf(managementapi.NewSecret(canary)))
		return 1
	}
	var planted int
	switch kind := value.Kind(); {
	case kind == reflect.Pointer:
		value.Set(reflect.New(value.Type().Elem()))
		planted = plant(value.Elem())
	case kind == reflect.Slice:
		value.Set(reflect.MakeSlice(value.Type(), 1, 1))
		planted = plant(value.Index(0))
	case kind == reflect.Map && value.Type().Key().Kind() == reflect.Bool: // nullable.Nullable
		item := reflect.New(value.Type().Elem()).Elem()
		planted = plant(item)
		value.Set(reflect.MakeMap(value.Type()))
		value.SetMapIndex(reflect.ValueOf(true), item)
	case kind == reflect.Struct:
		for i := range value.NumField() {
			if value.Type().Field(i).IsExported() {
				planted += plant(value.Field(i))
			}
		}
	}
	return planted
}

// A secret that is sent shows in JSON alone, and in no log of the request that holds it.
func TestSentSecretHides(t *testing.T) {
	t.Parallel()
	const secret = managementapi.SentSecret(canary)
	for _, value := range []any{
		managementapi.TransferProjectRequest{RecipientAccessToken: secret},
		managementapi.ExchangeGithubActionsTokenRequest{Token: secret},
		managementapi.CreateEnvironmentVariableRequest{Value: secret},
		managementapi.UpdateEnvironmentVariableRequest{Value: secret},
	} {
		t.Run(reflect.TypeOf(value).Name(), func(t *testing.T) {
			t.Parallel()
			if text := encoded(t, value); !bytes.Contains(text, []byte(`"`+canary+`"`)) {
				t.Errorf("JSON = %s, want the secret", text)
			}
			var log bytes.Buffer
			for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
				slog.New(handler).InfoContext(t.Context(), "test", slog.Any("request", value))
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
				log.WriteString(fmt.Sprintf(verb, value) + fmt.Sprintf(verb, secret) + "\n")
			}
			for _, code := range encodings {
				if strings.Contains(log.String(), code) {
					t.Errorf("shown in %s", log.String())
				}
			}
		})
	}
}

// An answer with a secret in it decodes into one, and a null into none.
func TestSecretDecodes(t *testing.T) {
	t.Parallel()
	var token managementapi.CreatedServiceToken
	if err := json.Unmarshal([]byte(`{"value": "`+canary+`\u00e9"}`), &token); err != nil || token.Value.Reveal() != canary+"é" {
		t.Errorf("value = %q, %v, want the canary", token.Value.Reveal(), err)
	}
	if err := json.Unmarshal([]byte(`{"value": 7}`), &token); err == nil {
		t.Error("a number decodes into a secret")
	}
}
