/** Best of N over a server that forks, runs and promotes. */

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ExploreError, type Sandbox } from "../src/index.js";
import { bodyOf, FakeServer, json, type Recorded, sandboxJson } from "./server.js";

/** A server whose branches print their command; `fail…` exits with 1, and deletes are remembered. */
async function tree(t: TestContext, made = Number.POSITIVE_INFINITY) {
  const deleted: string[] = [];
  const ttls: Record<string, unknown> = {};
  const server = await FakeServer.start(t, (request: Recorded, response) => {
    const { method, url } = request;
    const id = url.split("/")[3] ?? "";
    if (method === "DELETE") {
      deleted.push(id);
      return void response.writeHead(204).end();
    }
    if (url.endsWith("/fork-tree")) {
      const { count } = bodyOf(request) as { count: number };
      const children = Array.from({ length: Math.min(count, made) }, (_, index) =>
        sandboxJson(`b${index}`, { metadata: { fork_tree_id: "tree1" } }),
      );
      return json(response, { children, failures: made < count ? { [`b${made}`]: "no memory" } : {} }, 201);
    }
    if (url.endsWith("/exec")) {
      const { cmd } = bodyOf(request) as { cmd: string };
      if (cmd.startsWith("date")) return json(response, { stdout: "100.5\n", exit_code: 0 });
      if (cmd.startsWith("find")) return json(response, { stdout: `/work/${id}\0`, exit_code: 0 });
      return json(response, { stdout: cmd, exit_code: cmd.startsWith("fail") ? 1 : 0 });
    }
    if (url.endsWith("/lifecycle")) {
      if (method === "PATCH") ttls[id] = (bodyOf(request) as { ttl_seconds?: number }).ttl_seconds;
      return json(response, { ttl_seconds: 3600, persistent: false, idle_seconds: 0 });
    }
    if (url.endsWith("/promote"))
      return json(response, { winner: id, tree_id: "tree1", deleted: [], failures: {} });
    return json(response, sandboxJson("sb1"));
  });
  const sandbox = await server.client().sandboxes.get("sb1");
  return { sandbox, server, deleted, ttls };
}

test("the best is promoted, the others are deleted", async (t) => {
  const { sandbox, deleted, ttls, server } = await tree(t);
  const seen: string[] = [];
  const result = await sandbox.explore(
    ["short", { label: "long", cmd: "a longer one", env: { A: "b c" } }, "fail now"],
    { scoreFn: (_, outcome) => outcome.stdoutTail.length, onOutcome: ({ label }) => void seen.push(label) },
  );
  assert.equal(result.winner?.id, "b1");
  assert.equal(result.winnerOutcome.stdoutTail, "export A='b c'; a longer one");
  assert.deepEqual(
    result.outcomes.map(({ label }) => label),
    ["long", "fail now", "short"],
  );
  assert.deepEqual(result.winnerOutcome.filesChanged, ["/work/b1"]);
  assert.deepEqual(
    [deleted.sort(), [...result.reaped].sort()],
    [
      ["b0", "b2"],
      ["b0", "b2"],
    ],
  );
  assert.deepEqual([result.treeId, result.errors], ["tree1", []]);
  assert.deepEqual(ttls, { b0: 600, b1: 3600, b2: 600 }, "the winner gets its parent's time to live");
  assert.deepEqual(seen.sort(), ["fail now", "long", "short"]);
  assert.match(result.table(), /^\* long/m);
  const promote = server.requests.find(({ url }) => url.endsWith("/b1/promote")) as Recorded;
  assert.deepEqual(bodyOf(promote), { cleanup_siblings: true, tree_id: "tree1" });
});

test("functions, a known score, a picker, and nothing promoted or deleted if so wished", async (t) => {
  const { sandbox, deleted } = await tree(t);
  const result = await sandbox.explore(
    [
      { label: "fn", fn: (branch: Sandbox) => branch.id },
      { label: "known", cmd: "true", score: 5 },
      {
        label: "throws",
        fn: () => {
          throw new Error("mine");
        },
      },
    ],
    {
      select: (outcomes) => outcomes.find(({ label }) => label === "fn") ?? assert.fail(),
      captureFiles: false,
      promoteWinner: false,
      cleanupLosers: false,
    },
  );
  assert.equal(result.winner, null);
  assert.equal(result.winnerOutcome.value, "b0");
  assert.equal(result.best()[0]?.label, "known");
  assert.equal(result.outcomes.at(-1)?.error, "mine");
  assert.deepEqual(deleted, []);
});

test("no viable branch: ExploreError, and none is left", async (t) => {
  const { sandbox, deleted } = await tree(t);
  await assert.rejects(sandbox.explore(["fail 1", "fail 2"], { captureFiles: false }), (error) => {
    assert.ok(error instanceof ExploreError);
    assert.match(error.message, /none of 2 branches was viable \(fail 1: exit 1; fail 2: exit 1\)/);
    return true;
  });
  assert.deepEqual(deleted.sort(), ["b0", "b1"]);
});

test("branches that could not be forked are told, and the others go on", async (t) => {
  const { sandbox } = await tree(t, 1);
  const result = await sandbox.explore(["a", "b"], { captureFiles: false });
  assert.deepEqual(result.errors, ["1 of 2 children were made: no memory"]);
  assert.equal(result.winner?.id, "b0");
});

test("an abort ends it, and none is left", async (t) => {
  const { sandbox, deleted } = await tree(t);
  const abort = new AbortController();
  const candidates = [{ label: "a", fn: () => abort.abort() }, "b", "c"];
  const run = sandbox.explore(candidates, { signal: abort.signal, maxConcurrency: 1, captureFiles: false });
  await assert.rejects(run, { name: "AbortError" });
  assert.deepEqual(deleted.sort(), ["b0", "b1", "b2"]);
});

test("candidates that cannot be right are refused before anything is forked", async (t) => {
  const { sandbox, server } = await tree(t);
  server.requests.length = 0;
  await assert.rejects(sandbox.explore([]), ExploreError);
  await assert.rejects(sandbox.explore([{ label: "x" }]), /needs either a cmd or a fn/);
  await assert.rejects(
    sandbox.explore([{ label: "x", cmd: "y", env: { "A;B": "c" } }]),
    /not a variable's name/,
  );
  assert.deepEqual(server.requests, []);
});
