/** Which refused creates are sent again, when, and that they stay the same create. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { CapacityError, type CreateRetryEvent, RateLimitError, ServerError } from "../src/index.js";
import { parseRetryAfter, RetryPlan } from "../src/retry.js";
import { FakeServer, json, sandboxJson } from "./server.js";

const REFUSED = { error: "no compute capacity available", code: "no_capacity" };

test("503 and 429 with Retry-After and 507 are sent again, with the same key and body", async (t) => {
  const refusals = [
    [503, { "retry-after": "0" }],
    [507, {}],
    [429, { "retry-after": "0" }],
  ] as const;
  const server = await FakeServer.start(t, (_, response) => {
    const refusal = refusals[server.requests.length - 1];
    if (refusal) json(response, REFUSED, refusal[0], refusal[1]);
    else json(response, sandboxJson(), 201);
  });
  t.mock.method(Math, "random", () => 0);
  const told: CreateRetryEvent[] = [];
  const client = server.client({ onCreateRetry: (event) => void told.push(event) });
  assert.equal((await client.sandboxes.create({ ttlSeconds: 5 })).id, "sb1");
  assert.equal(server.requests.length, 4);
  assert.equal(new Set(server.requests.map(({ headers }) => headers["idempotency-key"])).size, 1);
  assert.equal(new Set(server.requests.map(({ body }) => body.toString())).size, 1);
  assert.deepEqual(
    told.map(({ method, path, attempt, statusCode }) => [method, path, attempt, statusCode]),
    [
      ["POST", "/sandboxes", 1, 503],
      ["POST", "/sandboxes", 2, 507],
      ["POST", "/sandboxes", 3, 429],
    ],
  );
  assert.equal(told[1]?.delaySeconds, 0.5);
});

for (const verb of ["fork", "forkTree", "snapshot"] as const) {
  test(`${verb} is retried like a create`, async (t) => {
    const server = await FakeServer.start(t, ({ method }, response) => {
      if (method === "GET") return json(response, sandboxJson());
      if (server.requests.length === 2) return json(response, REFUSED, 503, { "retry-after": "0" });
      return json(response, { id: "made", template: "t" }, 201);
    });
    t.mock.method(Math, "random", () => 0);
    const sandbox = await server.client().sandboxes.get("sb1");
    await sandbox[verb]({ count: 1 } as never);
    assert.equal(server.requests.length, 3);
    assert.equal(
      server.requests[1]?.headers["idempotency-key"],
      server.requests[2]?.headers["idempotency-key"],
    );
    assert.ok(server.requests[1]?.headers["idempotency-key"]);
  });
}

const FINAL: [string, number, object, unknown, new (...args: never[]) => Error][] = [
  ["a bare 503", 503, {}, REFUSED, CapacityError],
  ["a load balancer's 503", 503, { "retry-after": "0" }, "<html>", CapacityError],
  ["a 429 without Retry-After", 429, {}, { error: "max sandboxes reached" }, RateLimitError],
  ["500", 500, { "retry-after": "0" }, REFUSED, ServerError],
  ["502", 502, { "retry-after": "0" }, REFUSED, ServerError],
  ["what the server calls not retryable", 507, {}, { ...REFUSED, retryable: false }, CapacityError],
  ["what would wait longer than the budget", 503, { "retry-after": "61" }, REFUSED, CapacityError],
];
for (const [name, status, headers, body, kind] of FINAL) {
  test(`not sent again: ${name}`, async (t) => {
    const server = await FakeServer.start(t, (_, response) => json(response, body, status, headers));
    await assert.rejects(server.client().sandboxes.create(), kind);
    assert.equal(server.requests.length, 1);
  });
}

test("a broken connection is not sent again", async (t) => {
  const server = await FakeServer.start(t, (_, response) => response.destroy());
  await assert.rejects(server.client().sandboxes.create(), { name: "NetworkError", sent: true });
  assert.equal(server.requests.length, 1);
});

test("a budget of 0 disables it", async (t) => {
  const server = await FakeServer.start(t, (_, response) => json(response, REFUSED, 507));
  await assert.rejects(server.client({ maxCreateRetrySeconds: 0 }).sandboxes.create(), CapacityError);
  assert.equal(server.requests.length, 1);
});

test("an abort ends the waiting", async (t) => {
  const server = await FakeServer.start(t, (_, response) =>
    json(response, REFUSED, 503, { "retry-after": "50" }),
  );
  const abort = new AbortController();
  const client = server.client({ onCreateRetry: () => abort.abort() });
  await assert.rejects(client.sandboxes.create({ signal: abort.signal }), { name: "AbortError" });
});

test("the plan: caps grow, the last wait is cut to the budget, then it is over", () => {
  let now = 0;
  const plan = new RetryPlan(
    "POST",
    "/sandboxes",
    30,
    () => now,
    () => 1,
  );
  const error = new CapacityError("full", { statusCode: 503 });
  const refusal = { error, retryAfter: "2", fromPlatform: true };
  const delays = [];
  for (let event = plan.next(refusal); event; event = plan.next(refusal)) {
    delays.push(event.delaySeconds);
    now += event.delaySeconds;
  }
  assert.deepEqual(delays, [3, 4, 6, 10, 7]);
});

test("Retry-After: seconds, dates, and nonsense", () => {
  assert.equal(parseRetryAfter("5"), 5);
  assert.equal(parseRetryAfter(" 0.5 "), 0.5);
  assert.equal(parseRetryAfter("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
  const soon = parseRetryAfter(new Date(Date.now() + 20_000).toUTCString());
  assert.ok(soon !== undefined && soon > 15 && soon <= 20);
  for (const value of [null, "", "soon", "-5x"]) assert.equal(parseRetryAfter(value), undefined);
});
