/** The life of sandboxes: bodies sent, answers read, and what no answer may pretend. */

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ForkIncomplete, NotFoundError, type Sandbox, ServerError, walkTree } from "../src/index.js";
import { bodyOf, FakeServer, type Handler, json, sandboxJson } from "./server.js";

async function sandboxOf(t: TestContext, handler: Handler, extra = {}): Promise<[Sandbox, FakeServer]> {
  const server = await FakeServer.start(t, (request, response) =>
    request.method === "GET" && request.url === "/v1/sandboxes/sb1"
      ? json(response, sandboxJson("sb1", extra))
      : handler(request, response),
  );
  const sandbox = await server.client().sandboxes.get("sb1");
  server.requests.length = 0;
  return [sandbox, server];
}

test("create: what is asked for is sent, and nothing else", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, sandboxJson(), 201));
  const { sandboxes } = server.client();
  const sandbox = await sandboxes.create();
  assert.deepEqual(bodyOf(server.last), { template: "code-interpreter" });
  assert.match(String(server.last.headers["idempotency-key"]), /^[0-9a-f]{32}$/);
  await sandboxes.create({
    template: "base",
    ttlSeconds: 600,
    persistent: true,
    metadata: { a: "ü" },
    fromSnapshot: { id: "sn1" },
    volumes: ["v1", { name: "v2", readOnly: true }],
    onTimeout: "hibernate",
    env: { MODE: "x" },
    idempotencyKey: "mine",
  });
  assert.deepEqual(bodyOf(server.last), {
    template: "base",
    ttl_seconds: 600,
    persistent: true,
    metadata: { a: "ü" },
    from_snapshot: "sn1",
    volumes: [
      { name: "v1", read_only: false },
      { name: "v2", read_only: true },
    ],
    on_timeout: "hibernate",
    env: { MODE: "x" },
  });
  assert.equal(server.last.headers["idempotency-key"], "mine");
  await sandboxes.create({ persistent: false, ttl_seconds: 5, from_snapshot: "sn2" });
  assert.deepEqual(bodyOf(server.last), {
    template: "code-interpreter",
    ttl_seconds: 5,
    from_snapshot: "sn2",
  });
  assert.deepEqual(
    [sandbox.id, sandbox.template, sandbox.cpu, sandbox.memoryMb, sandbox.status, sandbox.bootMs],
    ["sb1", "code-interpreter", 2, 1024, "running", 99],
  );
  assert.equal(sandbox.info["host_tap"], "tap0");
});

test("create: cpu and memory are not sent, and that is said", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, sandboxJson(), 201));
  const warn = t.mock.method(console, "warn", () => undefined);
  await server.client().sandboxes.create({ cpu: 8, memoryMb: 9 });
  assert.deepEqual(bodyOf(server.last), { template: "code-interpreter" });
  assert.equal(warn.mock.callCount(), 1);
});

test("create: two creates have two keys", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, sandboxJson(), 201));
  const { sandboxes } = server.client();
  await Promise.all([sandboxes.create(), sandboxes.create()]);
  const [one, two] = server.requests.map(({ headers }) => headers["idempotency-key"]);
  assert.notEqual(one, two);
});

test("an answer without an id is no sandbox", async (t) => {
  const server = await FakeServer.start(t, (_, response) => response.writeHead(201).end());
  await assert.rejects(server.client().sandboxes.create(), ServerError);
});

test("list takes every published envelope", async (t) => {
  const answers = [
    [sandboxJson()],
    { items: [sandboxJson()] },
    { sandboxes: [sandboxJson()] },
    { items: null },
  ];
  const server = await FakeServer.start(t, (_, response) =>
    json(response, answers[server.requests.length - 1]),
  );
  const lengths = [];
  for (const _ of answers) lengths.push((await server.client().sandboxes.list()).length);
  assert.deepEqual(lengths, [1, 1, 1, 0]);
});

test("verbs without a body send none", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) => response.writeHead(204).end());
  await sandbox.pause();
  await sandbox.resume();
  await sandbox.hibernate();
  await sandbox.wake();
  await sandbox.kill();
  assert.deepEqual(server.calls, [
    "POST /v1/sandboxes/sb1/pause",
    "POST /v1/sandboxes/sb1/resume",
    "POST /v1/sandboxes/sb1/hibernate",
    "POST /v1/sandboxes/sb1/wake",
    "DELETE /v1/sandboxes/sb1",
  ]);
  for (const { body, headers } of server.requests) {
    assert.equal(body.length, 0);
    assert.equal(headers["content-type"], undefined);
  }
});

test("a sandbox that is gone is not asked for twice", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) => json(response, { error: "gone" }, 404));
  await assert.rejects(sandbox.kill(), NotFoundError);
  assert.equal(server.requests.length, 1);
});

test("network", async (t) => {
  const answer = { internet: false, allow_out: ["192.0.2.1"], public_traffic: true, mask_host: null };
  const [sandbox, server] = await sandboxOf(t, (_, response) => json(response, answer));
  assert.deepEqual(await sandbox.network(), {
    internet: false,
    allowOut: ["192.0.2.1"],
    denyOut: [],
    publicTraffic: true,
    maskHost: null,
    trafficToken: null,
  });
  await sandbox.setNetwork({ denyOut: ["198.51.100.0/24"] });
  assert.deepEqual(bodyOf(server.last), { deny_out: ["198.51.100.0/24"] });
  assert.deepEqual(server.calls, ["GET /v1/sandboxes/sb1/network", "PUT /v1/sandboxes/sb1/network"]);
});

test("lifecycle, refresh", async (t) => {
  const life = { ttl_seconds: 60, persistent: true, idle_seconds: 1.5 };
  const [sandbox, server] = await sandboxOf(t, (_, response) => json(response, life));
  assert.deepEqual(await sandbox.lifecycle(), {
    ttlSeconds: 60,
    persistent: true,
    idleSeconds: 1.5,
    ttl_seconds: 60,
    idle_seconds: 1.5,
  });
  await sandbox.setTtl(60);
  assert.deepEqual(bodyOf(server.last), { ttl_seconds: 60 });
  await sandbox.setPersistent(true);
  assert.deepEqual(bodyOf(server.last), { persistent: true });
  assert.equal(sandbox.persistent, true);
  assert.equal((await sandbox.refresh()).persistent, false);
  assert.deepEqual(server.calls.slice(0, 2), [
    "GET /v1/sandboxes/sb1/lifecycle",
    "PATCH /v1/sandboxes/sb1/lifecycle",
  ]);
});

test("snapshot and rollback", async (t) => {
  const [sandbox, server] = await sandboxOf(t, ({ url }, response) =>
    url.endsWith("/snapshots")
      ? json(response, { snapshot_id: "sn1", sandbox_id: "sb1", created_at: "now" }, 201)
      : json(response, sandboxJson("sb1", { status: "running", boot_ms: 7 })),
  );
  const snapshot = await sandbox.snapshot();
  assert.deepEqual([snapshot.id, snapshot.sandboxId, snapshot.createdAt], ["sn1", "sb1", "now"]);
  assert.equal(server.last.body.length, 0);
  await sandbox.snapshot({ name: "before" });
  assert.deepEqual(bodyOf(server.last), { name: "before" });
  await sandbox.rollback(snapshot);
  assert.deepEqual(bodyOf(server.last), { snapshot_id: "sn1" });
  assert.equal(sandbox.bootMs, 7);
  assert.equal(server.calls.at(-1), "POST /v1/sandboxes/sb1/rollback");
});

test("fork: one without a body, many with a count", async (t) => {
  const children = [sandboxJson("c1"), sandboxJson("c2")];
  const [sandbox, server] = await sandboxOf(t, (_, response) =>
    json(response, { children: ["c1", "c2"], sandbox: children[0], sandboxes: children }, 201),
  );
  const one = await sandbox.fork();
  assert.equal(one.id, "c1");
  assert.equal(server.last.body.length, 0);
  const two = await sandbox.fork({ count: 2, metadata: { a: "b" } });
  assert.deepEqual(
    two.map(({ id }) => id),
    ["c1", "c2"],
  );
  assert.deepEqual(bodyOf(server.last), { count: 2, metadata: { a: "b" } });
  await sandbox.forkTree({ count: 2 });
  assert.deepEqual(server.calls, [
    "POST /v1/sandboxes/sb1/fork",
    "POST /v1/sandboxes/sb1/fork",
    "POST /v1/sandboxes/sb1/fork-tree",
  ]);
});

for (const [name, answer] of Object.entries({
  "an object": sandboxJson("c1"),
  "a sandbox": { sandbox: sandboxJson("c1") },
  "children as objects": { children: [sandboxJson("c1")] },
  items: { items: [sandboxJson("c1")] },
  "a list": [sandboxJson("c1")],
})) {
  test(`fork: the answer may be ${name}`, async (t) => {
    const [sandbox] = await sandboxOf(t, (_, response) => json(response, answer, 201));
    assert.equal((await sandbox.fork()).id, "c1");
  });
}

test("fork: an answer of ids alone is completed by asking, not by inventing", async (t) => {
  const [sandbox, server] = await sandboxOf(t, ({ url }, response) =>
    url.endsWith("/c1")
      ? json(response, sandboxJson("c1", { template: "mine" }))
      : json(response, { children: ["c1"] }, 201),
  );
  assert.equal((await sandbox.fork()).template, "mine");
  assert.equal(server.calls.at(-1), "GET /v1/sandboxes/c1");
});

test("fork: fewer children than asked for is ForkIncomplete, with those that live", async (t) => {
  const [sandbox] = await sandboxOf(t, (_, response) =>
    json(response, { sandboxes: [sandboxJson("c1")], failures: { c2: "no memory" } }, 201),
  );
  await assert.rejects(sandbox.fork({ count: 2 }), (error) => {
    assert.ok(error instanceof ForkIncomplete);
    assert.equal(error.message, "1 of 2 children were made: no memory");
    assert.deepEqual(
      error.children.map(({ id }) => id),
      ["c1"],
    );
    assert.deepEqual(error.failures, { c2: "no memory" });
    return true;
  });
});

test("promote and tree", async (t) => {
  const [sandbox, server] = await sandboxOf(t, ({ url }, response) =>
    url.endsWith("/promote")
      ? json(response, { winner: "sb1", tree_id: "t", deleted: ["x"], failures: { y: "busy" } })
      : json(response, { root: { id: "r", status: "running", children: [{ id: "k", status: "paused" }] } }),
  );
  const done = await sandbox.promote({ cleanupSiblings: true, treeId: "t" });
  assert.deepEqual(done, {
    winner: "sb1",
    treeId: "t",
    tree_id: "t",
    deleted: ["x"],
    failures: { y: "busy" },
  });
  assert.deepEqual(bodyOf(server.last), { cleanup_siblings: true, tree_id: "t" });
  await sandbox.promote();
  assert.deepEqual(bodyOf(server.last), { cleanup_siblings: false });
  assert.deepEqual(
    [...walkTree(await sandbox.tree())].map(({ id }) => id),
    ["r", "k"],
  );
});

test("preview URLs", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) =>
    json(response, { ports: [3000, { port: 80 }] }),
  );
  const { port } = new URL(server.url);
  assert.equal(sandbox.previewUrl(3000), `http://3000-sb1.localhost:${port}`);
  assert.deepEqual(await sandbox.previewUrls(), {
    3000: `http://3000-sb1.localhost:${port}`,
    80: `http://80-sb1.localhost:${port}`,
  });
  const fetch = async () => new Response(JSON.stringify(sandboxJson()));
  const of = async (options: object) => server.client({ ...options, fetch }).sandboxes.get("sb1");
  assert.equal(
    (await of({ baseUrl: "https://api.example.org" })).previewUrl(80),
    "https://80-sb1.example.org",
  );
  assert.equal((await of({ baseUrl: "http://[::1]:8080" })).previewUrl(80), "http://80-sb1.localhost:8080");
  const own = await of({ baseUrl: "https://api.example.org", previewHost: ".p.example.net" });
  assert.equal(own.previewUrl(80, "http"), "http://80-sb1.p.example.net");
});

test("await using kills it at the end, unless it is persistent or gone", async (t) => {
  let persistent = false;
  const server = await FakeServer.start(t, ({ method }, response) =>
    method === "POST"
      ? json(response, sandboxJson("sb1", { persistent }), 201)
      : json(response, { error: "gone already" }, 404),
  );
  const client = server.client();
  {
    await using sandbox = await client.sandboxes.create();
    assert.ok(sandbox.id);
  }
  assert.deepEqual(server.calls, ["POST /v1/sandboxes", "DELETE /v1/sandboxes/sb1"]);
  persistent = true;
  {
    await using sandbox = await client.sandboxes.create({ persistent: true });
    assert.ok(sandbox.id);
  }
  assert.equal(server.requests.length, 3);
});
