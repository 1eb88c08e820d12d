/** Files: exact bytes, streams in flat memory, and nothing half-made. */

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { NetworkError, NotFoundError, PandaStackError, type Sandbox } from "../src/index.js";
import { FakeServer, type Handler, json, sandboxJson, until } from "./server.js";

/** A sandbox whose files are kept by path. */
async function withFiles(t: TestContext): Promise<[Sandbox, FakeServer, Map<string, Buffer>]> {
  const files = new Map<string, Buffer>();
  const [sandbox, server] = await withHandler(t, ({ method, url, body }, response) => {
    const path = new URL(`http://x${url}`).searchParams.get("path") ?? "";
    const found = files.get(path);
    if (method === "PUT") {
      files.set(path, body);
      return json(response, { path, bytes: body.length });
    }
    if (!found) return json(response, { error: `${path}: no such file`, code: "not_found" }, 404);
    response.writeHead(200, { "content-type": "application/octet-stream", "content-length": found.length });
    return response.end(found);
  });
  return [sandbox, server, files];
}

async function withHandler(t: TestContext, handler: Handler): Promise<[Sandbox, FakeServer]> {
  const server = await FakeServer.start(t, (request, response) =>
    request.url === "/v1/sandboxes/sb1" ? json(response, sandboxJson()) : handler(request, response),
  );
  const sandbox = await server.client().sandboxes.get("sb1");
  server.requests.length = 0;
  return [sandbox, server];
}

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "pandastack-test-"));
  t.after(() => rm(path, { recursive: true }));
  return path;
}

const BINARY = Buffer.from([0xef, 0xbb, 0xbf, ...Array(256).keys(), 0x0d, 0x0a, 0xf0, 0x9f]);

test("every byte survives, from every kind of content", async (t) => {
  const [{ filesystem }, server, files] = await withFiles(t);
  const kinds = {
    bytes: new Uint8Array(BINARY),
    buffer: BINARY,
    part: new Uint8Array(Buffer.concat([Buffer.from("xx"), BINARY])).subarray(2),
    memory: new Uint8Array(BINARY).buffer,
    blob: new Blob([new Uint8Array(BINARY)]),
    web: new Blob([new Uint8Array(BINARY)]).stream() as ReadableStream<Uint8Array>,
    generator: (async function* () {
      for (const byte of BINARY) yield Uint8Array.of(byte);
      yield new Uint8Array();
    })(),
  };
  for (const [name, content] of Object.entries(kinds)) {
    const written = await filesystem.write(`/${name}`, content);
    assert.deepEqual(written, { path: `/${name}`, bytes: BINARY.length });
    assert.equal(server.last.headers["content-type"], "application/octet-stream");
    assert.deepEqual(files.get(`/${name}`), BINARY, name);
    assert.deepEqual(Buffer.from(await filesystem.readBytes(`/${name}`)), BINARY, name);
  }
});

test("text is UTF-8 and comes back as it went, with its byte order mark", async (t) => {
  const [{ files: filesystem }, , files] = await withFiles(t);
  const text = "\ufeffgrün 🐼\r\n\u0000\u2028";
  await filesystem.write("/t", text);
  assert.deepEqual(files.get("/t"), Buffer.from(text));
  assert.equal(await filesystem.read("/t"), text);
  await filesystem.write("/empty", "");
  assert.equal(await filesystem.read("/empty"), "");
});

test("read refuses what is not text, instead of changing it", async (t) => {
  const [{ filesystem }] = await withFiles(t);
  await filesystem.write("/b", BINARY);
  await assert.rejects(filesystem.read("/b"), (error) => {
    assert.ok(error instanceof PandaStackError);
    assert.match(error.message, /use readBytes/);
    return true;
  });
});

test("paths arrive form-encoded and whole", async (t) => {
  const [{ filesystem }, server, files] = await withFiles(t);
  await filesystem.write("/a b/ü+&=#%?.txt", "x");
  assert.deepEqual([...files.keys()], ["/a b/ü+&=#%?.txt"]);
  assert.deepEqual(server.calls, ["PUT /v1/sandboxes/sb1/fs?path=%2Fa+b%2F%C3%BC%2B%26%3D%23%25%3F.txt"]);
});

test("a stream is sent as it is read", async (t) => {
  let firstArrived = () => {};
  const arrived = new Promise<void>((resolve) => {
    firstArrived = resolve;
  });
  const server = await FakeServer.start(t, (_, response) => json(response, sandboxJson()));
  const sandbox = await server.client().sandboxes.get("sb1");
  // A second server, since the first records whole bodies only.
  const { createServer } = await import("node:http");
  const raw = createServer((request, response) => {
    let bytes = 0;
    request.on("data", (piece: Buffer) => {
      bytes += piece.length;
      firstArrived();
    });
    request.on("end", () => json(response, { path: "/s", bytes }));
  });
  await new Promise<void>((resolve) => raw.listen(0, "127.0.0.1", resolve));
  t.after(() => raw.close());
  const { port } = raw.address() as { port: number };
  const client = server.client({ baseUrl: `http://127.0.0.1:${port}` });
  const other = new (sandbox.constructor as new (...args: unknown[]) => Sandbox)(client, { id: "sb1" });
  const written = await other.filesystem.write(
    "/s",
    (async function* () {
      yield Buffer.from("one");
      await arrived; // never, if the whole were collected first
      yield Buffer.from("two");
    })(),
  );
  assert.equal(written.bytes, 6);
});

test("a source that fails is the caller's error", async (t) => {
  const [{ filesystem }, , files] = await withFiles(t);
  const mine = new Error("the disk is on fire");
  const failing = (async function* () {
    yield Buffer.from("one");
    throw mine;
  })();
  await assert.rejects(filesystem.write("/f", failing), (error) => error === mine);
  assert.equal(files.has("/f"), false);
});

test("readStream: exact, pulled as it is read, closed when cancelled", async (t) => {
  const data = randomBytes(3 * 1024 * 1024);
  let endless = false;
  const [{ filesystem }, server] = await withHandler(t, (_, response) => {
    if (endless) return void response.writeHead(200).write(data);
    return void response.end(data);
  });
  const hash = createHash("sha256");
  const stream = await filesystem.readStream("/f");
  const reader = stream.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) hash.update(piece.value);
  assert.equal(hash.digest("hex"), createHash("sha256").update(data).digest("hex"));
  endless = true;
  const cancelled = (await filesystem.readStream("/f")).getReader();
  await cancelled.read();
  await cancelled.cancel();
  await until(() => server.closedEarly === 1);
  await (await filesystem.readStream("/f")).cancel();
  await until(() => server.closedEarly === 2);
  await assert.rejects(filesystem.download("/f", "/no/such/folder/f"), { code: "ENOENT" });
  await until(() => server.closedEarly === 3);
});

test("content that breaks off is an error, and never a short file", async (t) => {
  const [{ filesystem }] = await withHandler(t, (_, response) => {
    response.writeHead(200, { "content-length": "1000" });
    response.write("half", () => setImmediate(() => response.destroy()));
  });
  await assert.rejects(filesystem.readBytes("/f"), NetworkError);
  const local = await folder(t);
  await assert.rejects(filesystem.download("/f", join(local, "f")), NetworkError);
  assert.deepEqual(await readdir(local), []);
});

test("upload and download, with progress, into a file or a directory", async (t) => {
  const [{ filesystem }, , files] = await withFiles(t);
  const local = await folder(t);
  const data = randomBytes(2_500_000);
  await writeFile(join(local, "in"), data);
  const sent: number[] = [];
  const written = await filesystem.upload(join(local, "in"), "/data/out.bin", {
    onProgress: (bytes) => void sent.push(bytes),
  });
  assert.equal(written.bytes, data.length);
  assert.equal(sent.at(-1), data.length);
  assert.ok(sent.length >= 3);
  assert.deepEqual(files.get("/data/out.bin"), data);
  await filesystem.download("/data/out.bin", local);
  await filesystem.download("/data/out.bin", join(local, "again"));
  assert.deepEqual(await readFile(join(local, "out.bin")), data);
  assert.deepEqual(await readFile(join(local, "again")), data);
  assert.deepEqual((await readdir(local)).sort(), ["again", "in", "out.bin"]);
  await writeFile(join(local, "empty"), "");
  await filesystem.upload(join(local, "empty"), "/empty");
  assert.equal(files.get("/empty")?.length, 0);
  await filesystem.write("/by-stream", createReadStream(join(local, "in")));
  assert.deepEqual(files.get("/by-stream"), data);
});

test("a download of nothing touches nothing; an upload of nothing sends nothing", async (t) => {
  const [{ filesystem }, server] = await withFiles(t);
  const local = await folder(t);
  await writeFile(join(local, "old"), "old");
  await assert.rejects(filesystem.download("/missing", join(local, "old")), NotFoundError);
  assert.deepEqual(await readdir(local), ["old"]);
  assert.equal(await readFile(join(local, "old"), "utf8"), "old");
  server.requests.length = 0;
  await assert.rejects(filesystem.upload(join(local, "missing"), "/x"), { code: "ENOENT" });
  assert.deepEqual(server.requests, []);
});

test("list, stat, exists, remove, walk: routes and shapes", async (t) => {
  const entry = (name: string, isDir: boolean) => ({ name, is_dir: isDir, size: 1, mode: "0644", mtime: 5 });
  const listings: Record<string, unknown> = {
    "/": [entry("a", true), entry("f", false)],
    "/a": [entry("b", true)],
    "/a/b": null,
  };
  const [{ filesystem }, server] = await withHandler(t, ({ method, url }, response) => {
    const path = new URL(`http://x${url}`).searchParams.get("path") ?? "";
    if (method === "DELETE") return void response.writeHead(204).end();
    if (path === "/missing") return json(response, { error: "nothing there", code: "file_not_found" }, 404);
    if (path === "/gone") return json(response, { error: "no sandbox sb1", code: "sandbox_not_found" }, 404);
    if (url.includes("/fs/stat")) return json(response, entry("f", false));
    return json(response, { path, entries: listings[path] });
  });
  const file = { name: "f", path: "/f", isDir: false, is_dir: false, size: 1, mode: "0644", mtime: 5 };
  assert.deepEqual((await filesystem.list())[1], file);
  assert.deepEqual(await filesystem.stat("/f"), file);
  assert.equal(await filesystem.exists("/f"), true);
  assert.equal(await filesystem.exists("/missing"), false);
  await assert.rejects(filesystem.stat("/missing"), NotFoundError);
  await assert.rejects(filesystem.exists("/gone"), { code: "sandbox_not_found" });
  await filesystem.remove("/f");
  const calls = server.calls.slice();
  const walked = [];
  for await (const { dir, dirs, files } of filesystem.walk()) walked.push([dir, dirs.length, files.length]);
  assert.deepEqual(walked, [
    ["/", 1, 1],
    ["/a", 1, 0],
    ["/a/b", 0, 0],
  ]);
  assert.deepEqual(calls, [
    "GET /v1/sandboxes/sb1/fs/dir?path=%2F",
    "GET /v1/sandboxes/sb1/fs/stat?path=%2Ff",
    "GET /v1/sandboxes/sb1/fs/stat?path=%2Ff",
    "GET /v1/sandboxes/sb1/fs/stat?path=%2Fmissing",
    "GET /v1/sandboxes/sb1/fs/stat?path=%2Fmissing",
    "GET /v1/sandboxes/sb1/fs/stat?path=%2Fgone",
    "DELETE /v1/sandboxes/sb1/fs?path=%2Ff",
  ]);
});
