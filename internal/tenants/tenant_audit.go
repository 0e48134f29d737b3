package tenants

// details say in the audit log what is set, and of secrets just that they are.
func (c TenantChange) details() map[string]any {
	data := map[string]any{}
	set(data, "name", c.Name)
	set(data, "paused", c.Paused)
	set(data, "completion", c.Completion)
	set(data, "restartUrl", c.RestartURL)
	if c.ReturnURLs != nil {
		data["returnUrls"] = c.ReturnURLs
	}
	if c.Client != nil {
		data["clientId"], data["clientSecret"] = c.Client.ID, howSet(c.Client.Secret)
	}
	if c.NextSecret != nil {
		data["nextClientSecret"] = howSet(*c.NextSecret)
	}
	if c.ServiceToken != nil {
		data["serviceToken"] = howSet(*c.ServiceToken)
	}
	limits := c.Limits
	set(data, "requestsPerSecond", limits.Requests)
	set(data, "burst", limits.Burst)
	set(data, "sessionsPerSecond", limits.Sessions)
	set(data, "createsPerSecond", limits.Creates)
	set(data, "callsAtOnce", limits.AtOnce)
	return data
}

// details are those of a change that sets all of it.
func (in TenantInput) details() map[string]any {
	c := TenantChange{
		Name: &in.Name, Completion: &in.Completion, RestartURL: &in.RestartURL, ReturnURLs: in.ReturnURLs,
		ServiceToken: &in.ServiceToken, Limits: in.Limits.change(),
	}
	if !in.SharedClient {
		c.Client = &in.Client
	}
	data := c.details()
	data["sharedClient"] = in.SharedClient
	return data
}

func set[T any](data map[string]any, name string, value *T) {
	if value != nil {
		data[name] = *value
	}
}

func howSet(secret string) string {
	if secret == "" {
		return "none"
	}
	return "set"
}

// details say what a key may do and until when.
func (k Key) details() map[string]any {
	data := map[string]any{"name": k.Name, "scopes": k.Scopes}
	if !k.ExpiresAt.IsZero() {
		data["expiresAt"] = k.ExpiresAt.UTC()
	}
	return data
}
