package passthrough

// Why an operation is not passed through. An access token ends with its connection; what
// these hand out or take over does not. The texts are shown to partners.
const (
	serviceTokens      = "A service token never expires and acts on the whole workspace, beyond the connection's end."
	exchanged          = "It hands out a service token for the workspace."
	integrationRemoval = "It ends every connection of its OAuth client in the workspace at once. Disconnect one with DELETE /v1/connections/{id}?revoke=true."
	transfer           = "It gives a project away to another workspace, and takes somebody's access token to do so."
	installation       = "It hands out a link that ties a GitHub account to the workspace, beyond the connection's end."
	repositoryLink     = "It ties a project to a Git repository: whoever may push there deploys, beyond the connection's end."
)

// allowed is the decision to pass an operation through.
const allowed = ""

// decision is what was decided about one operation: "" or the reason of a refusal.
type decision struct{ method, path, refusal string }

// Refusal is an operation that is not passed through.
type Refusal struct {
	Operation string // method and path, as in the interface document
	Reason    string
}

// Refusals returns the operations that are not passed through.
func Refusals() []Refusal {
	var all []Refusal
	for _, d := range decisions() {
		if d.refusal != allowed {
			all = append(all, Refusal{Operation: d.method + " " + d.path, Reason: d.refusal})
		}
	}
	return all
}

// decisions has every operation of the interface document. One that the document gains
// is as unknown as any other address until somebody decides about it here, looking for
// this: would it hand out or take over power that outlives the connection? Secrets of a
// single resource do too, but handing those out is what a partner is connected for.
func decisions() []decision {
	return []decision{
		{"GET", "/v1/agent-approvals/{approvalId}", allowed},
		{"GET", "/v1/apps", allowed},
		{"POST", "/v1/apps", allowed},
		{"GET", "/v1/apps/{appId}", allowed},
		{"PATCH", "/v1/apps/{appId}", allowed},
		{"DELETE", "/v1/apps/{appId}", allowed},
		{"GET", "/v1/apps/{appId}/deployments", allowed},
		{"POST", "/v1/apps/{appId}/deployments", allowed},
		{"GET", "/v1/apps/{appId}/domains", allowed},
		{"POST", "/v1/apps/{appId}/domains", allowed},
		{"POST", "/v1/apps/{appId}/promote", allowed},
		{"POST", "/v1/apps/{appId}/rollback", allowed},
		{"POST", "/v1/auth/github-actions/token", exchanged},
		{"GET", "/v1/branches/{branchId}", allowed},
		{"PATCH", "/v1/branches/{branchId}", allowed},
		{"DELETE", "/v1/branches/{branchId}", allowed},
		{"GET", "/v1/buckets", allowed},
		{"POST", "/v1/buckets", allowed},
		{"GET", "/v1/buckets/{bucketId}", allowed},
		{"PATCH", "/v1/buckets/{bucketId}", allowed},
		{"DELETE", "/v1/buckets/{bucketId}", allowed},
		{"GET", "/v1/buckets/{bucketId}/keys", allowed},
		{"POST", "/v1/buckets/{bucketId}/keys", allowed},
		{"DELETE", "/v1/buckets/{bucketId}/keys/{keyId}", allowed},
		{"GET", "/v1/builds", allowed},
		{"POST", "/v1/builds", allowed},
		{"GET", "/v1/builds/{buildId}", allowed},
		{"PATCH", "/v1/builds/{buildId}", allowed},
		{"GET", "/v1/builds/{buildId}/logs", allowed},
		{"PUT", "/v1/builds/{buildId}/resources/{resourceType}/{resourceId}", allowed},
		{"GET", "/v1/connections", allowed},
		{"POST", "/v1/connections", allowed},
		{"GET", "/v1/connections/{id}", allowed},
		{"DELETE", "/v1/connections/{id}", allowed},
		{"POST", "/v1/connections/{id}/rotate", allowed},
		{"GET", "/v1/databases", allowed},
		{"POST", "/v1/databases", allowed},
		{"GET", "/v1/databases/{databaseId}", allowed},
		{"PATCH", "/v1/databases/{databaseId}", allowed},
		{"DELETE", "/v1/databases/{databaseId}", allowed},
		{"GET", "/v1/databases/{databaseId}/backups", allowed},
		{"GET", "/v1/databases/{databaseId}/connections", allowed},
		{"POST", "/v1/databases/{databaseId}/connections", allowed},
		{"GET", "/v1/databases/{databaseId}/usage", allowed},
		{"POST", "/v1/databases/{targetDatabaseId}/restore", allowed},
		{"GET", "/v1/deployments/{deploymentId}", allowed},
		{"DELETE", "/v1/deployments/{deploymentId}", allowed},
		{"GET", "/v1/deployments/{deploymentId}/logs", allowed},
		{"POST", "/v1/deployments/{deploymentId}/start", allowed},
		{"POST", "/v1/deployments/{deploymentId}/stop", allowed},
		{"GET", "/v1/domains/{domainId}", allowed},
		{"DELETE", "/v1/domains/{domainId}", allowed},
		{"POST", "/v1/domains/{domainId}/retry", allowed},
		{"GET", "/v1/environment-variables", allowed},
		{"POST", "/v1/environment-variables", allowed},
		{"GET", "/v1/environment-variables/{envVarId}", allowed},
		{"PATCH", "/v1/environment-variables/{envVarId}", allowed},
		{"DELETE", "/v1/environment-variables/{envVarId}", allowed},
		{"GET", "/v1/integrations", allowed},
		{"GET", "/v1/integrations/{id}", allowed},
		{"DELETE", "/v1/integrations/{id}", integrationRemoval},
		{"GET", "/v1/me", allowed},
		{"GET", "/v1/projects", allowed},
		{"POST", "/v1/projects", allowed},
		{"GET", "/v1/projects/{id}", allowed},
		{"PATCH", "/v1/projects/{id}", allowed},
		{"DELETE", "/v1/projects/{id}", allowed},
		{"POST", "/v1/projects/{id}/transfer", transfer},
		{"GET", "/v1/projects/{projectId}/branches", allowed},
		{"POST", "/v1/projects/{projectId}/branches", allowed},
		{"POST", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/lease", allowed},
		{"PATCH", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/lease", allowed},
		{"DELETE", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/lease", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks", allowed},
		{"DELETE", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages/{stage}/output", allowed},
		{"PUT", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages/{stage}/output", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages/{stage}/replaced-resources", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages/{stage}/resources", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages/{stage}/resources/{fqn}", allowed},
		{"PUT", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages/{stage}/resources/{fqn}", allowed},
		{"DELETE", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/state/stacks/{stack}/stages/{stage}/resources/{fqn}", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/alchemy-state/version", allowed},
		{"GET", "/v1/projects/{projectId}/branches/{branchId}/application-topology", allowed},
		{"PUT", "/v1/projects/{projectId}/branches/{branchId}/application-topology", allowed},
		{"GET", "/v1/projects/{projectId}/databases", allowed},
		{"POST", "/v1/projects/{projectId}/databases", allowed},
		{"GET", "/v1/regions", allowed},
		{"GET", "/v1/regions/accelerate", allowed},
		{"GET", "/v1/regions/postgres", allowed},
		{"GET", "/v1/scm-installations", allowed},
		{"POST", "/v1/scm-installations/install-intents", installation},
		{"GET", "/v1/scm-installations/{installationId}/repositories", allowed},
		{"GET", "/v1/services", allowed},
		{"POST", "/v1/services", allowed},
		{"GET", "/v1/services/{serviceId}", allowed},
		{"PATCH", "/v1/services/{serviceId}", allowed},
		{"DELETE", "/v1/services/{serviceId}", allowed},
		{"GET", "/v1/services/{serviceId}/deployments", allowed},
		{"POST", "/v1/services/{serviceId}/deployments", allowed},
		{"GET", "/v1/services/{serviceId}/domains", allowed},
		{"POST", "/v1/services/{serviceId}/domains", allowed},
		{"POST", "/v1/services/{serviceId}/promote", allowed},
		{"POST", "/v1/services/{serviceId}/rollback", allowed},
		{"GET", "/v1/source-repositories", allowed},
		{"POST", "/v1/source-repositories", repositoryLink},
		{"GET", "/v1/source-repositories/{id}", allowed},
		{"DELETE", "/v1/source-repositories/{id}", allowed},
		{"GET", "/v1/workspaces", allowed},
		{"POST", "/v1/workspaces", allowed},
		{"GET", "/v1/workspaces/{id}", allowed},
		{"GET", "/v1/workspaces/{id}/subscription", allowed},
		{"GET", "/v1/workspaces/{workspaceId}/integrations", allowed},
		{"DELETE", "/v1/workspaces/{workspaceId}/integrations/{clientId}", integrationRemoval},
		{"GET", "/v1/workspaces/{workspaceId}/service-tokens", serviceTokens},
		{"POST", "/v1/workspaces/{workspaceId}/service-tokens", serviceTokens},
		{"DELETE", "/v1/workspaces/{workspaceId}/service-tokens/{serviceTokenId}", serviceTokens},
	}
}
