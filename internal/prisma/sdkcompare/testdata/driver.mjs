// Plays the parts of the scenarios that belong to Prisma's published SDK. The Go test
// sends one JSON request per line on stdin and gets one JSON answer per line on stdout;
// requests run side by side, and an answer has the id of its request. The end of stdin
// ends the process.
import { webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { AuthError, FetchError, createManagementApiClient, createManagementApiSdk } from "@prisma/management-api-sdk";

globalThis.crypto ??= webcrypto; // Node.js 18 has it, but not there

const objects = new Map(); // SDKs, clients and storages, by the name that the test gave them
const running = new Map(); // AbortControllers, by the id of their request

function send(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

// PlainStorage is what a user of the SDK writes: get, set, clear. It can be told to fail
// the next calls of a method.
class PlainStorage {
  constructor({ name, tokens, failures }) {
    this.name = name;
    this.tokens = tokens ?? null;
    this.failures = failures ?? {};
  }

  mayFail(method) {
    if (this.failures[method] > 0) {
      this.failures[method]--;
      throw new Error("storage is down");
    }
  }

  async getTokens() {
    this.mayFail("get");
    return this.tokens;
  }

  async setTokens(tokens) {
    this.mayFail("set");
    this.tokens = tokens;
  }

  async clearTokens() {
    this.mayFail("clear");
    this.tokens = null;
  }
}

// LockingStorage has the two optional methods as well.
class LockingStorage extends PlainStorage {
  last = Promise.resolve();
  inside = 0;

  async withRefreshLock(fn) {
    if (this.inside++ > 0) {
      send({ event: "contended", name: this.name });
    }
    const turn = this.last.then(fn).finally(() => this.inside--);
    this.last = turn.catch(() => {});
    return turn;
  }

  async clearTokensIfCurrent(tokens) {
    if (JSON.stringify(this.tokens) === JSON.stringify(tokens)) {
      await this.clearTokens();
    }
  }
}

// answer turns what openapi-fetch resolves with into a result: data, or an API error.
async function answer({ data, error, response }) {
  if (response.ok) {
    return { data };
  }
  return { refused: { status: response.status, body: error, retryAfter: response.headers.get("retry-after") } };
}

const actions = {
  version: async () => JSON.parse(readFileSync("node_modules/@prisma/management-api-sdk/package.json", "utf8")).version,
  storage: async ({ name, locking, tokens, failures }) => {
    objects.set(name, locking ? new LockingStorage({ name, tokens, failures }) : new PlainStorage({ name, tokens, failures }));
  },
  sdk: async ({ name, storage, config }) => {
    objects.set(name, createManagementApiSdk({ ...config, tokenStorage: objects.get(storage) }));
  },
  client: async ({ name, options }) => {
    objects.set(name, { client: createManagementApiClient(options) });
  },
  stored: async ({ storage }) => objects.get(storage).tokens,
  login: async ({ of, options }, signal) => objects.get(of).getLoginUrl(options, { signal }),
  callback: async ({ of, options }, signal) => objects.get(of).handleCallback(options, { signal }),
  logout: async ({ of }, signal) => objects.get(of).logout({ signal }),
  call: async ({ of, method, path, init }, signal) => answer(await objects.get(of).client[method](path, { ...init, signal })),
  abort: async ({ target }) => running.get(target)?.abort(),
  // Everything that could run has run: timers, promises and what had arrived on sockets.
  settle: async () => {
    for (let turn = 0; turn < 10; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  },
};

function describe(error) {
  let kind = error?.name ?? typeof error;
  let message = String(error?.message);
  if (error instanceof AuthError) {
    kind = "AuthError";
  } else if (error instanceof FetchError) {
    kind = "FetchError";
  } else if (kind !== "Error") {
    // An error of the platform: its text differs between versions of Node.js.
    message = `(a ${kind} of the platform)`;
    kind = kind === "AbortError" ? "Canceled" : kind;
  }
  return {
    kind,
    message,
    refreshTokenInvalid: error?.refreshTokenInvalid === true,
    hasCause: error?.cause !== undefined,
  };
}

createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const { id, action, aborted, args } = JSON.parse(line);
    const controller = new AbortController();
    running.set(id, controller);
    if (aborted) {
      controller.abort();
    }
    try {
      send({ id, result: (await actions[action](args ?? {}, controller.signal)) ?? null });
    } catch (error) {
      send({ id, error: describe(error) });
    } finally {
      running.delete(id);
    }
  })
  .on("close", () => process.exit(0)); // pooled connections would keep it alive
