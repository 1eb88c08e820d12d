/** The README and the page about this SDK: their code has the right types, and runs. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { bodyOf, FakeServer, json, type Recorded, sandboxJson, sse } from "./server.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const PAGES = { page: join(root, "..", "..", "docs", "typescript-sdk.md"), readme: join(root, "README.md") };

/** A server on which everything works, in the simplest way. */
async function platform(t: TestContext): Promise<FakeServer> {
  const files = new Map<string, Buffer>();
  let made = 0;
  const child = () => sandboxJson(`sb${++made}`, { metadata: { fork_tree_id: "tree" } });
  const handler = (request: Recorded, response: ServerResponse) => {
    const { pathname, searchParams } = new URL(`http://x${request.url}`);
    const [, , , id, verb, what] = pathname.split("/");
    const body = request.body.length > 0 && request.method === "POST" ? bodyOf(request) : {};
    const { cmd = "", count = 1 } = body as { cmd?: string; count?: number };
    const path = searchParams.get("path") ?? "";
    switch (`${request.method} ${[verb, what].filter(Boolean).join("/")}`) {
      case "POST ":
        return json(response, child(), 201);
      case "GET ":
        if (id === "nothing-here") return json(response, { error: "none", code: "sandbox_not_found" }, 404);
        return json(response, sandboxJson(id));
      case "POST fork":
      case "POST fork-tree":
        return json(response, { children: Array.from({ length: count }, child) }, 201);
      case "POST exec/stream": {
        if (cmd.startsWith("sleep")) return void response.writeHead(200).flushHeaders();
        return sse(response, [
          'event: stdout\ndata: {"chunk":"x"}\n\nevent: exit\ndata: {"exit_code":0}\n\n',
        ]);
      }
      case "POST exec":
        return json(response, { stdout: "1024\n", stderr: "", exit_code: 0 });
      case "POST snapshots":
        return json(response, { id: "sn1" }, 201);
      case "GET tree":
        return json(response, { id, status: "running", children: [] });
      case "GET lifecycle":
      case "PATCH lifecycle":
        return json(response, { ttl_seconds: 3600, persistent: false, idle_seconds: 0 });
      case "GET network":
      case "PUT network":
        return json(response, { internet: true, allow_out: [], deny_out: ["198.51.100.0/24"] });
      case "POST promote":
        return json(response, { winner: id });
      case "PUT fs":
        files.set(path, request.body);
        return json(response, { path, bytes: request.body.length });
      case "GET fs":
        return void response.end(files.get(path));
      case "GET fs/dir":
        return json(response, { path, entries: [{ name: "data.bin", is_dir: false, size: 256 }] });
      case "GET fs/stat":
        return json(response, { name: "notes.txt", size: 1 });
      default:
        return void response.writeHead(204).end();
    }
  };
  return FakeServer.start(t, handler, (peer) => {
    peer.send(Buffer.from("x"));
    peer.once("message", () => peer.send('{"exit":3}'));
  });
}

for (const [name, page] of Object.entries(PAGES)) {
  test(`${name}: every block has the right types, and runs`, async (t) => {
    const blocks = [...readFileSync(page, "utf8").matchAll(/^```ts\n(.*?)^```$/gms)].map((match) => match[1]);
    assert.ok(blocks.length >= (name === "page" ? 10 : 1));
    const folder = join(root, "dist", "test", "docs", name);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    writeFileSync(join(folder, "blocks.mts"), blocks.join("\n"));
    // Node before 22 has no WebSocket of its own; the page says what to do then.
    const shim =
      'import { WebSocket } from "ws"; globalThis.WebSocket ??= WebSocket; await import("./blocks.mjs");';
    writeFileSync(join(folder, "run.mjs"), shim);
    writeFileSync(
      join(folder, "tsconfig.json"),
      JSON.stringify({
        extends: join(root, "tsconfig.json"),
        compilerOptions: {
          rootDir: ".",
          outDir: ".",
          declaration: false,
          noUnusedLocals: false,
          noUnusedParameters: false,
        },
        files: ["blocks.mts"],
        include: [],
      }),
    );
    const require = createRequire(join(root, "package.json"));
    const typescript = require.resolve("typescript/package.json");
    const tsc = join(dirname(typescript), require(typescript).bin.tsc);
    const compiled = spawnSync(process.execPath, [tsc, "-p", folder], { encoding: "utf8" });
    assert.equal(compiled.status, 0, compiled.stdout);

    const server = await platform(t);
    const env = { ...process.env, PANDASTACK_API: server.url, PANDASTACK_API_KEY: "pds_docs" };
    const { spawn } = await import("node:child_process");
    const run = spawn(process.execPath, [join(folder, "run.mjs")], { cwd: folder, env });
    let printed = "";
    for (const output of [run.stdout, run.stderr]) output.on("data", (piece) => (printed += piece));
    const exitCode = await new Promise((resolve) => run.on("close", resolve));
    assert.equal(exitCode, 0, printed);
  });
}
