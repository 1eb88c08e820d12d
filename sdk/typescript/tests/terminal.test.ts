/** Terminals: against a real WebSocket server on loopback. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { type WebSocket as Peer, WebSocket, WebSocketServer } from "ws";
import {
  AuthError,
  ConflictError,
  ExecInterrupted,
  NotFoundError,
  PandaStack,
  type Terminal,
  type WebSocketConstructor,
} from "../src/index.js";
import { json, sandboxJson, until } from "./server.js";

const webSocket = WebSocket as unknown as WebSocketConstructor;

/** A server whose sandbox is in this state; `talk` is the other end of every terminal. */
async function serve(t: TestContext, talk: (peer: Peer, url: URL) => void, status = "running") {
  const server = createServer((_, response) => {
    if (status === "gone") json(response, { error: "none", code: "sandbox_not_found" }, 404);
    else json(response, sandboxJson("sb1", { status }));
  });
  const sockets = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, socket, head) => {
    if (status !== "running") return void socket.end("HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (peer) => talk(peer, new URL(`http://x${request.url}`)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const peer of sockets.clients) peer.terminate();
    server.closeAllConnections();
    server.close();
  });
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const client = new PandaStack({ baseUrl, token: "pds_test", webSocket });
  return client.sandboxes.get("sb1").catch(() => client.sandboxes.create());
}

async function printed(terminal: Terminal): Promise<{ stdout: string; stderr: string }> {
  const all = { stdout: "", stderr: "" };
  for await (const { type, text } of terminal) all[type] += text;
  return all;
}

test("a terminal is typed into, resized, and says how it ended", async (t) => {
  const heard: string[] = [];
  const sandbox = await serve(t, (peer, url) => {
    assert.equal(url.pathname, "/v1/sandboxes/sb1/exec/pty");
    assert.deepEqual(Object.fromEntries(url.searchParams), {
      rows: "30",
      cols: "100",
      access_token: "pds_test",
    });
    peer.on("message", (data, binary) => {
      heard.push(`${binary ? "bytes" : "text"} ${data}`);
      if (heard.length < 3) return;
      const [first, rest] = [Buffer.from("ü").subarray(0, 1), Buffer.from("ü").subarray(1)];
      peer.send(first);
      peer.send(rest);
      peer.send('{"exit":7}');
      peer.close();
    });
  });
  const terminal = await sandbox.terminal({ rows: 30, cols: 100 });
  await terminal.send("ls ü\n");
  terminal.resize(40, 120);
  terminal.endInput();
  assert.equal((await printed(terminal)).stdout, "ü");
  assert.equal(await terminal.exitCode, 7);
  assert.deepEqual(heard, ["bytes ls ü\n", 'text {"resize":{"rows":40,"cols":120}}', 'text {"eof":true}']);
});

test("a process over pipes keeps its two outputs apart, byte for byte", async (t) => {
  const sandbox = await serve(t, (peer, url) => {
    assert.equal(url.pathname, "/v1/sandboxes/sb1/exec/stdio");
    assert.equal(url.searchParams.get("cmd"), "cat 'a b'");
    peer.once("message", (data: Buffer) => {
      peer.send(data);
      peer.send('{"stderr":"e"}');
      peer.send('{"stderr":"?","base64":"/w=="}');
      peer.send('{"exit":0}');
      peer.close();
    });
  });
  const process = await sandbox.openProcess(["cat", "a b"]);
  const sent = Uint8Array.from({ length: 256 }, (_, byte) => byte);
  await process.send(sent);
  const got: Record<string, number[]> = { stdout: [], stderr: [] };
  for await (const { type, data } of process) got[type]?.push(...data);
  assert.deepEqual(got, { stdout: [...sent], stderr: [101, 255] });
});

test("what ends a terminal early is an error", async (t) => {
  const ends: ((peer: Peer) => void)[] = [
    (peer) => peer.close(),
    (peer) => peer.send('{"error":"sandbox sb1 was deleted","code":"sandbox_deleted","status":404}'),
  ];
  for (const [index, kind] of [ExecInterrupted, NotFoundError].entries()) {
    const sandbox = await serve(t, (peer) => ends[index]?.(peer));
    const terminal = await sandbox.terminal();
    await assert.rejects(printed(terminal), kind);
    await assert.rejects(terminal.exitCode, kind);
    await terminal.send("nobody hears this");
  }
});

test("closing and aborting hang up", async (t) => {
  let gone = 0;
  const sandbox = await serve(t, (peer) => peer.on("close", () => (gone += 1)));
  const closed = await sandbox.terminal();
  closed.close();
  await assert.rejects(closed.exitCode, ExecInterrupted);
  const abort = new AbortController();
  const aborted = await sandbox.terminal({ signal: abort.signal });
  abort.abort(new Error("enough"));
  await assert.rejects(printed(aborted), /enough/);
  await until(() => gone === 2);
  await assert.rejects(sandbox.terminal({ signal: abort.signal }), /enough/);
});

test("a handshake that is refused says why", async (t) => {
  await assert.rejects((await serve(t, () => undefined, "paused")).terminal(), ConflictError);
});

test("a token endpoint by its address: asked once, and again when the key has run out", async (t) => {
  let issued = 0;
  const server = createServer((request, response) => {
    if (request.url === "/token") {
      issued += 1;
      assert.equal(request.method, "POST");
      return issued === 1 ? json(response, { token: "pds_1" }) : void response.end(`pds_${issued}\n`);
    }
    if (request.url === "/no-token") return json(response, {}, 403);
    const good = request.headers.authorization === `Bearer pds_${issued}`;
    json(response, good ? [] : { error: "expired" }, good ? 200 : 401);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const client = new PandaStack({ baseUrl, token: new URL("/token", baseUrl) });
  await client.sandboxes.list();
  await client.sandboxes.list();
  assert.equal(issued, 1);
  issued = 5;
  await client.sandboxes.list().catch(() => client.sandboxes.list());
  assert.equal(issued, 6);
  const refused = new PandaStack({ baseUrl, token: new URL("/no-token", baseUrl) });
  await assert.rejects(refused.sandboxes.list(), AuthError);
  server.closeAllConnections();
});
