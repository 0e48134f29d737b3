// Connects a user's Prisma workspace and creates a database in it: what docs/partners.md
// tells step by step, as one program. It wants CONNECT_URL, API_KEY and RETURN_URL in its
// environment, a browser, and the address that the browser came back to on standard input.

import { createInterface } from "node:readline/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./connect-prisma.js"; // npm run types

const { CONNECT_URL, API_KEY, RETURN_URL } = process.env;
const connect = createClient<paths>({
  baseUrl: CONNECT_URL,
  headers: { Authorization: `Bearer ${API_KEY}` },
  fetch: (request) => fetch(request, { signal: AbortSignal.timeout(90_000) }),
});

/** An error of the API: switch on its kind. */
class Problem extends Error {
  readonly kind?: string;
  constructor(readonly status: number, readonly problem?: components["schemas"]["Problem"]) {
    const fields = problem?.errors?.map(({ pointer, detail }) => `\n  ${pointer} ${detail}`) ?? [];
    super(`${status} ${problem?.type} (request ${problem?.requestId})${fields.join("")}`);
    this.kind = problem?.type?.split("/").pop(); // a proxy's own answer has none
  }
}

/** The body of an answer, or its problem as an exception. */
function read<T>({ data, error, response }: { data?: T; error?: unknown; response: Response }): T {
  if (!response.ok) {
    throw new Problem(response.status, error as components["schemas"]["Problem"]);
  }
  return data as T;
}

const { data: session } = read(
  await connect.POST("/v1/connect-sessions", {
    body: { userId: "user-42", userLabel: "grace@example.com", returnUrl: RETURN_URL },
  }),
);
console.log("Open", session.url); // in your app: response.redirect(303, session.url)

const terminal = createInterface({ input: process.stdin });
const back = new URL(await terminal.question("")); // in your app: request.url, in the handler of your return URL
terminal.close();
if (back.searchParams.get("sessionId") !== session.id) {
  throw new Error("this user began no such session");
}
const { data: connection } = read(
  await connect.POST("/v1/connect-sessions/{sessionId}/complete", {
    params: { path: { sessionId: session.id } },
    body: { completionCode: back.searchParams.get("completionCode") ?? "", userId: "user-42" },
  }),
);
console.log(connection.id, connection.workspace.name, connection.status);

const { data: database } = read(
  await connect.POST("/v1/connections/{connectionId}/databases", {
    params: { path: { connectionId: connection.id }, header: { "Idempotency-Key": "order-1001" } },
    body: { name: "shop", region: "eu-central-1" },
  }),
);
console.log(database.id, database.name, database.credentials !== undefined); // credentials.connectionString opens it

let cursor: string | undefined;
do {
  const page = read(
    await connect.GET("/v1/connections/{connectionId}/databases", {
      params: { path: { connectionId: connection.id }, query: { cursor, limit: 100 } },
    }),
  );
  for (const { id, name } of page.data) {
    console.log(id, name);
  }
  cursor = page.pagination.nextCursor ?? undefined;
} while (cursor);

try {
  read(await connect.GET("/v1/connections/{connectionId}", { params: { path: { connectionId: "cnx_unknown" } } }));
} catch (error) {
  if (!(error instanceof Problem) || error.kind !== "not-found") {
    throw error; // another problem, or no answer came
  }
  console.log(error.problem?.detail, error.problem?.requestId);
}
