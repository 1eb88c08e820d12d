/** What every request looks like, and what becomes of answers that are no success. */

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { afterEach, test } from "node:test";
import { inspect } from "node:util";
import * as sdk from "../src/index.js";
import { bodyOf, FakeServer, json, sandboxJson, until } from "./server.js";

const NAMES = [
  "PANDASTACK_API",
  "PANDASTACK_API_KEY",
  "PANDASTACK_TOKEN",
  "PANDASTACK_PREVIEW_HOST",
  "PANDASTACK_MAX_CREATE_RETRY_SECONDS",
];
for (const name of NAMES) delete process.env[name];
afterEach(() => {
  for (const name of NAMES) delete process.env[name];
});

test("a GET carries the key, and no body", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, { user_id: "u", email: "e" }));
  const me = await server.client().me();
  assert.equal(me.userId, "u");
  assert.equal(me["user_id"], "u");
  assert.deepEqual(server.calls, ["GET /v1/me"]);
  const { headers } = server.last;
  assert.equal(headers.authorization, "Bearer pds_test");
  assert.equal(headers.accept, "application/json");
  assert.equal(headers["user-agent"], `pandastack-typescript/${sdk.VERSION}`);
  assert.equal(headers["content-type"], undefined);
});

test("the base URL may end in slashes and in /v1", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, []));
  await server.client({ baseUrl: `${server.url}/v1//` }).sandboxes.list();
  await server.client({ baseUrl: `${server.url}/` }).sandboxes.list();
  assert.deepEqual(server.calls, ["GET /v1/sandboxes", "GET /v1/sandboxes"]);
});

test("both spellings of the options, and the environment", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, []));
  await new sdk.PandaStack({ token: "a", baseUrl: server.url }).sandboxes.list();
  await new sdk.Client({ apiKey: "b", apiUrl: server.url }).sandboxes.list();
  process.env["PANDASTACK_API"] = server.url;
  process.env["PANDASTACK_TOKEN"] = "c";
  await new sdk.PandaStack().sandboxes.list();
  process.env["PANDASTACK_API_KEY"] = " d\n";
  await new sdk.PandaStack().sandboxes.list();
  await sdk.Sandbox.list();
  const keys = server.requests.map(({ headers }) => headers.authorization);
  assert.deepEqual(keys, ["Bearer a", "Bearer b", "Bearer c", "Bearer d", "Bearer d"]);
});

test("options that cannot be right are refused at once", () => {
  const refused = (options: sdk.ClientOptions, error: object | RegExp) =>
    assert.throws(() => new sdk.PandaStack(options), error);
  refused({ token: "a", apiKey: "b" }, /token and apiKey name different values/);
  refused({ baseUrl: "http://a", apiUrl: "http://b" }, /baseUrl and apiUrl name different values/);
  refused({ baseUrl: "localhost:8080" }, /must look like http:\/\/host:port/);
  refused({ token: "pds_x\nInjected: yes" }, sdk.AuthError);
  refused({ token: "pds_ü" }, sdk.AuthError);
  refused({ timeoutMs: 0 }, /timeoutMs/);
  refused({ maxCreateRetrySeconds: -1 }, /retry budget/);
});

test("no key: refused here, nothing is sent", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, {}));
  await assert.rejects(new sdk.PandaStack({ baseUrl: server.url }).me(), sdk.AuthError);
  assert.equal(server.requests.length, 0);
});

test("a token function is asked once, and again when the server no longer takes the key", async (t) => {
  let valid = "Bearer one";
  const server = await FakeServer.start(t, ({ headers }, response) =>
    headers.authorization === valid
      ? json(response, sandboxJson(), 201)
      : json(response, { error: "expired" }, 401),
  );
  const keys = ["one", "two"];
  let asked = 0;
  const client = server.client({ token: async () => keys[asked++] ?? "none" });
  await Promise.all([client.sandboxes.create(), client.sandboxes.create()]);
  assert.equal(asked, 1);
  valid = "Bearer two";
  await client.sandboxes.create({ metadata: { a: "b" } });
  assert.equal(asked, 2);
  const [refused, repeated] = server.requests.slice(-2);
  assert.deepEqual(refused?.body, repeated?.body);
  assert.equal(refused?.headers["idempotency-key"], repeated?.headers["idempotency-key"]);
  valid = "nobody";
  await assert.rejects(client.me(), sdk.AuthError);
});

test("a token function that fails is asked again", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, {}));
  let asked = 0;
  const client = server.client({
    token: () => {
      if (asked++ === 0) throw new Error("the endpoint is down");
      return "one";
    },
  });
  await assert.rejects(client.me(), /the endpoint is down/);
  await client.me();
});

test("every status has its class, and carries what the server says", async (t) => {
  const server = await FakeServer.start(t, ({ url }, response) => {
    const status = Number(url.split("/").pop());
    json(
      response,
      { error: `no ${status}`, code: "some_code", retryable: false, request_id: "body" },
      status,
      {
        "x-request-id": "req_1",
      },
    );
  });
  type ErrorClass = new (...args: never[]) => sdk.PandaStackError;
  const classes: [number, ErrorClass, ErrorClass][] = [
    [400, sdk.BadRequestError, sdk.PandaStackError],
    [401, sdk.AuthError, sdk.PandaStackError],
    [403, sdk.ForbiddenError, sdk.BadRequestError],
    [404, sdk.NotFoundError, sdk.PandaStackError],
    [409, sdk.ConflictError, sdk.BadRequestError],
    [413, sdk.TooLargeError, sdk.BadRequestError],
    [418, sdk.BadRequestError, sdk.PandaStackError],
    [429, sdk.RateLimitError, sdk.BadRequestError],
    [500, sdk.ServerError, sdk.PandaStackError],
    [501, sdk.NotBuiltError, sdk.ServerError],
    [503, sdk.CapacityError, sdk.ServerError],
    [507, sdk.CapacityError, sdk.ServerError],
  ];
  for (const [status, kind, parent] of classes) {
    await assert.rejects(server.client().templates.get(String(status)), (error) => {
      assert.ok(error instanceof kind && error instanceof parent, `${status}: ${error}`);
      assert.equal(error.name, kind.name);
      assert.equal(error.message, `no ${status}`);
      assert.equal(error.statusCode, status);
      assert.equal(error.code, "some_code");
      assert.equal(error.requestId, "req_1");
      assert.equal(error.retryable, false);
      return true;
    });
  }
  assert.equal(server.requests.length, classes.length, "none of them is sent again");
});

test("an error's text is found in the bodies of other servers, too", async (t) => {
  const bodies = [
    ['{"message":"m"}', "m"],
    ['{"detail":"d"}', "d"],
    ['{"detail":[{"msg":"x"}]}', '[{"msg":"x"}]'],
    ["<html>\n bad  gateway", "HTTP 502: <html> bad gateway"],
    ["", "HTTP 502"],
  ];
  const server = await FakeServer.start(t, (_, response) => {
    response.writeHead(502);
    response.end(bodies[server.requests.length - 1]?.[0]);
  });
  for (const [, message] of bodies) await assert.rejects(server.client().me(), { message });
});

test("a success that is not JSON is not taken for one", async (t) => {
  const server = await FakeServer.start(t, (_, response) => response.end("<html>hello"));
  await assert.rejects(server.client().me(), /not JSON \(<html>hello\): is this URL really/);
  await assert.rejects(server.client().sandboxes.get("sb1"), sdk.ServerError);
});

test("redirects are not followed: they would take the key along", async (t) => {
  const server = await FakeServer.start(t, (_, response) => {
    response.writeHead(302, { location: "/elsewhere" });
    response.end();
  });
  await assert.rejects(server.client().sandboxes.create(), /redirects to \/elsewhere/);
  assert.deepEqual(server.calls, ["POST /v1/sandboxes"]);
});

test("ids are quoted, and none can step out of its path", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, sandboxJson()));
  await server.client().sandboxes.get("a/b?c#d ü");
  assert.deepEqual(server.calls, ["GET /v1/sandboxes/a%2Fb%3Fc%23d%20%C3%BC"]);
  for (const id of ["", ".", ".."]) {
    await assert.rejects(server.client().sandboxes.delete(id), TypeError);
  }
  assert.equal(server.requests.length, 1);
});

test("nobody there: NetworkError that says it was not sent", async () => {
  const server = createServer();
  const port = await new Promise<number>((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as { port: number }).port)),
  );
  await new Promise((resolve) => server.close(resolve));
  const client = new sdk.PandaStack({ baseUrl: `http://127.0.0.1:${port}`, token: "x" });
  await assert.rejects(client.me(), (error) => {
    assert.ok(error instanceof sdk.NetworkError);
    assert.equal(error.sent, false);
    assert.match(error.message, /is the server running\?/);
    return true;
  });
});

test("an answer that breaks off is a NetworkError", async (t) => {
  const server = await FakeServer.start(t, (_, response) => {
    response.writeHead(200, { "content-length": "100" });
    response.write('{"user_id":');
    setImmediate(() => response.destroy());
  });
  await assert.rejects(server.client().me(), (error) => {
    assert.ok(error instanceof sdk.NetworkError && !(error instanceof sdk.RequestTimeout));
    assert.equal(error.sent, true);
    return true;
  });
});

test("no answer in time: RequestTimeout, also when the answer stops half-way", async (t) => {
  const server = await FakeServer.start(t, ({ url }, response) => {
    if (url.endsWith("/sandboxes")) response.write("[");
  });
  const client = server.client({ timeoutMs: 60 });
  await assert.rejects(client.me(), sdk.RequestTimeout);
  await assert.rejects(client.sandboxes.list(), sdk.RequestTimeout);
});

test("an aborted call rejects with the signal's reason and closes the connection", async (t) => {
  const server = await FakeServer.start(t, () => undefined);
  const abort = new AbortController();
  const call = server.client().me({ signal: abort.signal });
  await until(() => server.requests.length === 1);
  const reason = new Error("enough");
  abort.abort(reason);
  await assert.rejects(call, (error) => error === reason);
  await until(() => server.closedEarly === 1);
  await assert.rejects(server.client().me({ signal: abort.signal }), (error) => error === reason);
  assert.equal(server.requests.length, 1, "a signal aborted before sends nothing");
});

test("a fetch of one's own is used", async () => {
  const seen: string[] = [];
  const client = new sdk.PandaStack({
    token: "x",
    fetch: async (input) => {
      seen.push(String(input));
      return new Response("[]");
    },
  });
  assert.deepEqual(await client.sandboxes.list(), []);
  assert.deepEqual(seen, ["http://127.0.0.1:8080/v1/sandboxes"]);
});

test("a printed client does not show its key", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, sandboxJson(), 201));
  const client = server.client({ token: "pds_secret" });
  const sandbox = await client.sandboxes.create();
  assert.ok(!inspect([client, sandbox], { depth: null }).includes("pds_secret"));
  assert.ok(!JSON.stringify(client.templates).includes("pds_secret"));
});

test("account, tokens, templates, snapshots: routes and shapes", async (t) => {
  const answers: Record<string, unknown> = {
    "GET /v1/templates": [
      { name: "base", size_bytes: 5, memory_mb: 512, is_global: true, meta: { built_at: 1 } },
    ],
    "GET /v1/templates/base": { name: "base" },
    "GET /v1/me/tokens": { items: [{ prefix: "pds_1", label: "ci", created_at: "now" }] },
    "POST /v1/me/tokens": { prefix: "pds_1", label: "ci", token: "pds_1secret" },
    "GET /v1/snapshots?sandbox_id=sb1": { snapshots: [{ id: "sn1", sandbox_id: "sb1", size_bytes: 7 }] },
    "GET /v1/snapshots": [{ snapshot_id: "sn1" }],
    "GET /v1/snapshots/sn1": { id: "sn1" },
  };
  const server = await FakeServer.start(t, ({ method, url }, response) => {
    const answer = answers[`${method} ${url}`];
    if (answer) json(response, answer);
    else response.writeHead(204).end();
  });
  const client = server.client();
  const [template] = await client.templates.list();
  assert.equal(template?.memoryMb, 512);
  assert.equal(template?.["memory_mb"], 512);
  assert.deepEqual(template?.tools, []);
  await client.templates.get("base");
  await client.templates.delete("mine");
  assert.equal((await client.tokens.list())[0]?.name, "ci");
  assert.equal((await client.tokens.create("ci", { expiresInDays: 3 })).token, "pds_1secret");
  assert.deepEqual(bodyOf(server.last), { label: "ci", expires_in_days: 3 });
  await client.tokens.revoke("pds_1");
  assert.equal((await client.snapshots.list({ sandboxId: "sb1" }))[0]?.sizeBytes, 7);
  assert.equal((await client.snapshots.list())[0]?.id, "sn1");
  await client.snapshots.get("sn1");
  await client.snapshots.delete("sn1");
  assert.deepEqual(server.calls, [
    "GET /v1/templates",
    "GET /v1/templates/base",
    "DELETE /v1/templates/mine",
    "GET /v1/me/tokens",
    "POST /v1/me/tokens",
    "DELETE /v1/me/tokens/pds_1",
    "GET /v1/snapshots?sandbox_id=sb1",
    "GET /v1/snapshots",
    "GET /v1/snapshots/sn1",
    "DELETE /v1/snapshots/sn1",
  ]);
});
