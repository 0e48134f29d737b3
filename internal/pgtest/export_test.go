package pgtest

import "context"

// EngineAnswers is engineAnswers.
func EngineAnswers(ctx context.Context) error { return engineAnswers(ctx) }

// Template returns the name of this process's template.
func Template() (string, error) {
	c, err := shared()
	if err != nil {
		return "", err
	}
	return c.template, nil
}
