// Prisma's published SDK against the pass-through, as a partner would use it. Each result
// is a JSON line on stdout; "expire" asks the test to end the access token, which it
// answers with a line on stdin.
import { createInterface } from "node:readline";
import { createManagementApiClient, createManagementApiSdk } from "@prisma/management-api-sdk";

const { BASE_URL, API_KEY } = process.env;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const client = createManagementApiClient({ token: API_KEY, baseUrl: BASE_URL });

function report(step, { data, error, response }) {
  process.stdout.write(`${JSON.stringify({ step, status: response.status, data, error })}\n`);
  return data?.data;
}

async function expire() {
  process.stdout.write('{"step":"expire"}\n');
  await lines.next();
}

const project = report("create project", await client.POST("/v1/projects", { body: { name: "shop", region: "us-east-1" } }));
const path = { params: { path: { id: project.id } } };
report("read project", await client.GET("/v1/projects/{id}", path));
await expire();
report("rename project", await client.PATCH("/v1/projects/{id}", { ...path, body: { name: "store" } }));
const database = report(
  "create database",
  await client.POST("/v1/projects/{projectId}/databases", {
    params: { path: { projectId: project.id } },
    body: { name: "orders", region: "us-east-1" },
  }),
);
const second = { params: { path: { databaseId: database.id } } };
report("read database", await client.GET("/v1/databases/{databaseId}", second));
await expire();
// Many at once on a token that has just ended.
const many = await Promise.all(Array.from({ length: 20 }, () => client.GET("/v1/databases/{databaseId}", second)));
report("read at once", { data: many.filter(({ data }) => data?.data.id === database.id).length, response: many[0].response });

for (let i = 0; i < 4; i++) {
  report("create another", await client.POST("/v1/projects", { body: { name: `more ${i}`, region: "us-east-1", createDatabase: false } }));
}
const names = [];
let cursor;
let pages = 0;
do {
  const { data } = await client.GET("/v1/projects", { params: { query: { limit: 2, cursor } } });
  names.push(...data.data.map(({ name }) => name));
  cursor = data.pagination.hasMore ? data.pagination.nextCursor : undefined;
  pages++;
} while (cursor);
report("pages", { data: { pages, names: names.sort() }, response: { status: 200 } });

const streamed = await client.GET("/v1/projects/{id}", { ...path, parseAs: "stream" });
let text = "";
for await (const chunk of streamed.data.pipeThrough(new TextDecoderStream())) {
  text += chunk;
}
report("read as a stream", { data: JSON.parse(text).data.name, response: streamed.response });

report("delete database", await client.DELETE("/v1/databases/{databaseId}", second));
await expire();
report("delete project", await client.DELETE("/v1/projects/{id}", path));
report("read deleted", await client.GET("/v1/projects/{id}", path));

// Our own errors: typed code written for Prisma's errors reads them too.
report("transfer", await client.POST("/v1/projects/{id}/transfer", { ...path, body: { recipientAccessToken: "x" } }));
const stranger = createManagementApiClient({ token: "cpk_unknown", baseUrl: BASE_URL });
report("unknown key", await stranger.GET("/v1/projects"));
const nowhere = createManagementApiClient({ token: API_KEY, baseUrl: BASE_URL.replace(/cnx_[a-z2-7]+/, "cnx_aaaaaaaaaaaaaaaaaaaaaaaaaa") });
report("unknown connection", await nowhere.GET("/v1/projects"));

// The SDK with its login: our key stands for the access token.
const sdk = createManagementApiSdk({
  clientId: "unused",
  redirectUri: "http://localhost/unused",
  apiBaseUrl: BASE_URL,
  authBaseUrl: "http://127.0.0.1:1",
  tokenStorage: {
    getTokens: async () => ({ accessToken: API_KEY, workspaceId: "unused" }),
    setTokens: async () => {},
    clearTokens: async () => {},
  },
});
report("through the SDK's storage", await sdk.client.GET("/v1/me"));
process.exit(0); // pooled connections would keep it alive
