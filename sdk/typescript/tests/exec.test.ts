/** Commands and code: wire shapes, exact output, and honest ends. */

import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { type TestContext, test } from "node:test";
import {
  CommandError,
  type ExecEvent,
  ExecInterrupted,
  NetworkError,
  NotFoundError,
  type Sandbox,
  SandboxTimeout,
  ServerError,
} from "../src/index.js";
import { bodyOf, FakeServer, type Handler, json, type Recorded, sandboxJson, sse, until } from "./server.js";

async function sandboxOf(t: TestContext, handler: Handler): Promise<[Sandbox, FakeServer]> {
  const server = await FakeServer.start(t, (request: Recorded, response: ServerResponse) =>
    request.url === "/v1/sandboxes/sb1" ? json(response, sandboxJson()) : handler(request, response),
  );
  const sandbox = await server.client().sandboxes.get("sb1");
  server.requests.length = 0;
  return [sandbox, server];
}

const event = (name: string, data: unknown) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
const EXIT = event("exit", { exit_code: 0 });

test("a short command is one plain request", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) =>
    json(response, { stdout: "1024\n", stderr: "w", exit_code: 3, duration_ms: 12 }),
  );
  const result = await sandbox.exec("python -c 'print(2 ** 10)'", { timeoutSeconds: 30 });
  assert.deepEqual(result, {
    stdout: "1024\n",
    stderr: "w",
    exitCode: 3,
    durationMs: 12,
    exit_code: 3,
    duration_ms: 12,
  });
  assert.deepEqual(server.calls, ["POST /v1/sandboxes/sb1/exec"]);
  assert.deepEqual(bodyOf(server.last), { cmd: "python -c 'print(2 ** 10)'", timeout_seconds: 30 });
  assert.equal(server.last.headers["content-type"], "application/json");
});

test("a command that may take longer than a fetch lives runs over the stream", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) =>
    sse(response, [": open\n\n", event("stdout", { chunk: "a" }), event("stderr", { chunk: "b" }), EXIT]),
  );
  const result = await sandbox.exec("true");
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ["a", "b", 0]);
  await sandbox.commands.run("true", { timeoutSeconds: 3600 });
  assert.deepEqual(server.calls, Array(2).fill("POST /v1/sandboxes/sb1/exec/stream"));
  assert.deepEqual(server.requests.map(bodyOf), [{ cmd: "true" }, { cmd: "true", timeout_seconds: 3600 }]);
  assert.equal(server.last.headers.accept, "text/event-stream");
});

test("a streamed command leaves its connection fit for the next", async (t) => {
  const ports = new Set<number | undefined>();
  const [sandbox] = await sandboxOf(t, (_, response) => {
    ports.add(response.socket?.remotePort);
    return sse(response, [EXIT]);
  });
  for (let i = 0; i < 6; i++) await sandbox.exec("true");
  assert.ok(ports.size < 4, `${ports.size} connections for 6 commands`);
});

test("a stream that stays open after the exit code does not hold the caller", async (t) => {
  const [sandbox] = await sandboxOf(t, (_, response) => void response.writeHead(200).write(EXIT));
  assert.equal((await sandbox.exec("true")).exitCode, 0);
});

test("arguments in a list are quoted", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) => json(response, { exit_code: 0 }));
  await sandbox.exec(["echo", "a b", "it's", "", "$HOME", "ü", "-x=1"], { timeoutSeconds: 1 });
  assert.deepEqual(bodyOf(server.last), {
    cmd: `echo 'a b' 'it'"'"'s' '' '$HOME' 'ü' -x=1`,
    timeout_seconds: 1,
  });
});

test("check: a non-zero exit becomes CommandError", async (t) => {
  const [sandbox] = await sandboxOf(t, (_, response) =>
    json(response, { stdout: "out", stderr: "first\nlast\n", exit: 2 }),
  );
  assert.equal((await sandbox.exec("false", { timeoutSeconds: 1 })).exitCode, 2);
  await assert.rejects(sandbox.exec("false", { timeoutSeconds: 1, check: true }), (error) => {
    assert.ok(error instanceof CommandError);
    assert.equal(error.message, "the command exited with 2: last");
    assert.deepEqual([error.exitCode, error.stdout, error.stderr], [2, "out", "first\nlast\n"]);
    return true;
  });
});

test("the request outlives the command's own time, so that the server's verdict arrives", async (t) => {
  const [sandbox] = await sandboxOf(t, (_, response) => {
    setTimeout(() => json(response, { error: "it ran out", code: "command_timeout", stdout: "o" }, 504), 150);
  });
  const timed = sandbox.exec("sleep 9", { timeoutSeconds: 0.05 });
  await assert.rejects(timed, (error) => {
    assert.ok(error instanceof SandboxTimeout);
    assert.deepEqual([error.statusCode, error.stdout], [504, "o"]);
    return true;
  });
});

test("older servers tell a timeout by its text; an i/o timeout is none", async (t) => {
  let message = "command timed out: deadline exceeded";
  const [sandbox] = await sandboxOf(t, (_, response) => json(response, { error: message }, 500));
  await assert.rejects(sandbox.exec("x", { timeoutSeconds: 1 }), SandboxTimeout);
  message = "dial tcp: i/o timeout";
  await assert.rejects(sandbox.exec("x", { timeoutSeconds: 1 }), ServerError);
});

test("execStream by callbacks: text in order, whole characters, the exit code", async (t) => {
  const bytes = Buffer.from(
    `: open\n\n${event("stdout", { chunk: "grün 🐼\r\n\u0000" })}${event("stderr", { chunk: "中" })}` +
      `: ping\n\n${event("exit", { exit_code: 7 })}`,
  );
  const pieces = Array.from(bytes, (byte) => Uint8Array.of(byte)); // every border there can be
  const [sandbox] = await sandboxOf(t, (_, response) => sse(response, pieces));
  const heard: string[] = [];
  const exitCode = await sandbox.execStream("x", {
    onStdout: async (text) => void heard.push(`out ${text}`),
    onStderr: (text) => void heard.push(`err ${text}`),
  });
  assert.equal(exitCode, 7);
  assert.deepEqual(heard, ["out grün 🐼\r\n\u0000", "err 中"]);
});

test("execStream by iterating, then awaited", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) =>
    sse(response, [event("stdout", { chunk: "é" }), event("exit", { exit_code: 1 })]),
  );
  const stream = sandbox.execStream("x", { timeoutSeconds: 5 });
  const events: ExecEvent[] = [];
  for await (const found of stream) events.push(found);
  const [output, exit] = events;
  assert.ok(output?.type === "stdout");
  assert.deepEqual([output.text, [...output.data]], ["é", [0xc3, 0xa9]]);
  assert.deepEqual(exit, { type: "exit", exitCode: 1 });
  assert.equal(await stream, 1);
  assert.deepEqual(bodyOf(server.last), { cmd: "x", timeout_seconds: 5 });
  await assert.rejects(async () => {
    for await (const _ of stream);
  }, /once/);
});

test("execStream with a callback runs though nobody awaits it; without, when first used", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) => sse(response, [EXIT]));
  const lazy = sandbox.execStream("lazy");
  sandbox.execStream("eager", { onStdout: () => undefined });
  await until(() => server.requests.length === 1);
  assert.deepEqual(bodyOf(server.last), { cmd: "eager" });
  assert.equal(await lazy.exitCode, 0);
});

test("output that is not text arrives as exact bytes, and as text where it is", async (t) => {
  const cut = Buffer.from("x🐼");
  const raw = (bytes: Uint8Array) =>
    event("stdout", { chunk: "\ufffd", base64: Buffer.from(bytes).toString("base64") });
  const [sandbox] = await sandboxOf(t, (_, response) =>
    sse(response, [
      raw(cut.subarray(0, 3)),
      raw(cut.subarray(3)),
      raw(Uint8Array.of(0xff, 0)),
      raw(Uint8Array.of(0xf0)),
      EXIT,
    ]),
  );
  const data: Uint8Array[] = [];
  let text = "";
  for await (const found of sandbox.execStream("x")) {
    if (found.type === "exit") continue;
    data.push(found.data);
    text += found.text;
  }
  assert.deepEqual(Buffer.concat(data), Buffer.concat([cut, Uint8Array.of(0xff, 0, 0xf0)]));
  assert.equal(text, "x🐼\ufffd\u0000\ufffd");
});

for (const [name, end] of [
  ["ends", (response: ServerResponse) => response.end()],
  ["breaks", (response: ServerResponse) => setImmediate(() => response.destroy())],
] as const) {
  test(`a stream that ${name} without an exit code is ExecInterrupted, with what had arrived`, async (t) => {
    const [sandbox] = await sandboxOf(t, (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(event("stdout", { chunk: "half" }) + event("stderr", { chunk: "why" }), () =>
        end(response),
      );
    });
    const interrupted = (error: unknown) => {
      assert.ok(error instanceof ExecInterrupted);
      assert.deepEqual([error.partialStdout, error.partialStderr], ["half", "why"]);
      return true;
    };
    await assert.rejects(sandbox.exec("x"), interrupted);
    await assert.rejects(sandbox.execStream("x", { onStdout: () => undefined }), interrupted);
    await assert.rejects(async () => {
      for await (const _ of sandbox.execStream("x"));
    }, interrupted);
  });
}

test("the stream's error event is thrown; a timeout as SandboxTimeout with what was printed", async (t) => {
  let error: object = { error: "timeout: it ran out", code: "command_timeout" };
  const [sandbox] = await sandboxOf(t, (_, response) =>
    sse(response, [event("stdout", { chunk: "so far" }), event("error", error)]),
  );
  await assert.rejects(sandbox.exec("x"), (found) => {
    assert.ok(found instanceof SandboxTimeout);
    assert.equal(found.stdout, "so far");
    return true;
  });
  error = { error: "the guest is gone", code: "vmm_failed" };
  await assert.rejects(sandbox.exec("x"), { name: "ServerError", code: "vmm_failed" });
});

test("a stream that is refused throws what the refusal says", async (t) => {
  const [sandbox] = await sandboxOf(t, (_, response) => json(response, { error: "gone" }, 404));
  await assert.rejects(sandbox.exec("x"), NotFoundError);
});

test("leaving the iteration closes the connection, on which the server kills the command", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(event("stdout", { chunk: "y\n" }));
  });
  const stream = sandbox.execStream("yes");
  for await (const found of stream) {
    assert.equal(found.type, "stdout");
    break;
  }
  await until(() => server.closedEarly === 1);
  await assert.rejects(stream.exitCode, ExecInterrupted);
});

test("an abort ends a running command with the signal's reason", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(event("stdout", { chunk: "y\n" }));
  });
  const abort = new AbortController();
  const run = sandbox.exec("yes", { signal: abort.signal });
  await until(() => server.requests.length === 1);
  abort.abort();
  await assert.rejects(run, { name: "AbortError" });
  await until(() => server.closedEarly === 1);
});

test("a callback's mistake is the caller's error, and ends the command", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) => {
    response.writeHead(200);
    response.write(event("stdout", { chunk: "y\n" }));
  });
  const failing = sandbox.execStream("yes", {
    onStdout: () => {
      throw new Error("mine");
    },
  });
  await assert.rejects(failing, /^Error: mine$/);
  await until(() => server.closedEarly === 1);
});

test("an unknown event is passed over, and one that cannot be read is an error", async (t) => {
  let odd = event("resources", { cpu: 1 });
  const [sandbox] = await sandboxOf(t, (_, response) => sse(response, [odd, EXIT]));
  assert.equal((await sandbox.exec("x")).exitCode, 0);
  odd = "event: stdout\ndata: not json\n\n";
  await assert.rejects(sandbox.exec("x"), /cannot be read: not json/);
});

test("many megabytes of output", async (t) => {
  const chunk = "ü".repeat(256 * 1024);
  const [sandbox] = await sandboxOf(t, (_, response) =>
    sse(response, [...Array(40).fill(event("stdout", { chunk })), EXIT]),
  );
  const { stdout } = await sandbox.exec("x");
  assert.equal(stdout.length, 40 * chunk.length);
  assert.ok(stdout.startsWith("ü") && stdout.endsWith("ü"));
});

test("runCode: python by default; long code goes by a file that is removed", async (t) => {
  const [sandbox, server] = await sandboxOf(t, ({ method }, response) =>
    method === "PUT" ? json(response, { path: "p", bytes: 1 }) : json(response, { exit_code: 0 }),
  );
  await sandbox.runCode("print('ü')", undefined, { timeoutSeconds: 1 });
  assert.deepEqual(bodyOf(server.last), { cmd: `python3 -c 'print('"'"'ü'"'"')'`, timeout_seconds: 1 });
  await sandbox.runCode("echo a b", "shell", { timeoutSeconds: 1 });
  assert.deepEqual(bodyOf(server.last), { cmd: "sh -c 'echo a b'", timeout_seconds: 1 });
  const long = `//${"x".repeat(70_000)}`;
  await sandbox.runCode(long, "javascript", { timeoutSeconds: 1 });
  const [put, run] = server.requests.slice(-2);
  assert.equal(put?.body.toString(), long);
  const file = new URL(`http://x${put?.url}`).searchParams.get("path");
  assert.match(file ?? "", /^\/tmp\/pandastack-[0-9a-f]{32}\.js$/);
  const cmd = (bodyOf(run as Recorded) as { cmd: string }).cmd;
  assert.equal(cmd, `node ${file}; code=$?; rm -f ${file}; exit $code`);
  await assert.rejects(sandbox.runCode("1", "cobol" as never), TypeError);
});

test("a code context: wire shapes and rich results", async (t) => {
  const [sandbox, server] = await sandboxOf(t, ({ method, url }, response) => {
    if (method === "DELETE") return json(response, { error: "gone already" }, 404);
    if (url.endsWith("/sessions")) return json(response, { id: "s1", language: "python" }, 201);
    return json(response, {
      stdout: "hi\n",
      stderr: "",
      exit: 0,
      error: "",
      duration_ms: 4,
      results: [
        { "text/plain": "<Figure>", "image/png": "cGc=" },
        { type: "application/json", data: '{"a":1}' },
      ],
    });
  });
  const context = await sandbox.createCodeContext();
  const execution = await context.runCode("x", { timeoutSeconds: 1.5 });
  assert.deepEqual(bodyOf(server.last), { code: "x", timeout_ms: 1500 });
  assert.deepEqual([execution.text, execution.png, execution.exitCode], ["<Figure>", "cGc=", 0]);
  assert.deepEqual([execution.results[0]?.chart, execution.results[1]?.json], ["cGc=", { a: 1 }]);
  assert.equal("error" in execution, false);
  await context.close();
  assert.deepEqual(server.calls, [
    "POST /v1/sandboxes/sb1/repl/sessions",
    "POST /v1/sandboxes/sb1/repl/sessions/s1/run",
    "DELETE /v1/sandboxes/sb1/repl/sessions/s1",
  ]);
  assert.deepEqual(bodyOf(server.requests[0] as Recorded), { language: "python" });
});

test("a code context: callbacks hear of what a cell does", async (t) => {
  const event = (name: string, data: unknown) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
  const begun = [
    ": open\n\n",
    event("stdout", { chunk: "a" }),
    event("stderr", { chunk: "e" }),
    event("stdout", { chunk: "ü" }),
    event("result", { data: { "text/plain": "1", "e2b/chart": '{"type":"line"}', "e2b/data": "{}" } }),
    event("of a later version", {}),
    event("exception", { name: "E", value: "v", traceback: "" }),
  ];
  const ends = [
    event("exit", { exit_code: 1, duration_ms: 5 }),
    event("error", { error: "timeout: 1s", code: "command_timeout" }),
    "",
  ];
  const [sandbox, server] = await sandboxOf(t, ({ url }, response) => {
    if (url.endsWith("/sessions")) return json(response, { id: "s1", language: "r" }, 201);
    return sse(response, [...begun, ends.shift() ?? ""]);
  });
  const context = await sandbox.createCodeContext("r", { cwd: "/w" });
  assert.deepEqual(bodyOf(server.last), { language: "r", cwd: "/w" });
  const heard: unknown[] = [];
  const ran = await context.runCode("x", {
    env: { A: "b" },
    onStdout: (text) => heard.push(text),
    onStderr: (text) => heard.push(text),
    onResult: (result) => heard.push(result.chartData, result.table),
    onException: (exception) => heard.push(exception.name),
  });
  assert.deepEqual(bodyOf(server.last), { code: "x", env: { A: "b" } });
  assert.deepEqual(heard, ["a", "e", "ü", { type: "line" }, {}, "E"]);
  assert.deepEqual([ran.stdout, ran.stderr, ran.exitCode, ran.durationMs, ran.text], ["aü", "e", 1, 5, "1"]);
  assert.deepEqual([ran.error, ran.exception?.name], ["E: v", "E"]);
  await assert.rejects(context.runCode("x", { onStdout() {} }), SandboxTimeout);
  await assert.rejects(context.runCode("x", { onStdout() {} }), ExecInterrupted);
});

test("runCode: languages that need a kernel run in one", async (t) => {
  const cell = { stdout: "o\n", stderr: "", exit: 1, error: "T", results: [{ "text/plain": "42" }] };
  const [sandbox, server] = await sandboxOf(t, (_, response) => json(response, cell));
  const ran = await sandbox.runCode("21 * 2", "java", { timeoutSeconds: 2 });
  assert.deepEqual([ran.stdout, ran.stderr, ran.exitCode], ["o\n42\n", "T\n", 1]);
  assert.equal(server.calls.at(-1), "POST /v1/sandboxes/sb1/repl");
  assert.deepEqual(bodyOf(server.last), { code: "21 * 2", language: "java", timeout_ms: 2000 });
});

test("logs: lines as they are, and followed", async (t) => {
  const [sandbox, server] = await sandboxOf(t, ({ url }, response) => {
    if (!url.includes("follow=true")) return void response.end("eins\r\nzwei ü\n\ndrei");
    const line = (data: unknown) => `data: ${JSON.stringify(data)}\n\n`;
    return sse(response, [": open\n\n", line({ line: "a" }), line({ chunk: "b" }), "data: plain\n\n"]);
  });
  const collect = async (options: object) => {
    const lines = [];
    for await (const line of sandbox.logs(options)) lines.push(line);
    return lines;
  };
  assert.deepEqual(await collect({}), ["eins", "zwei ü", "", "drei"]);
  assert.deepEqual(await collect({ stream: "stdout", follow: true }), ["a", "b", "plain"]);
  assert.deepEqual(server.calls, [
    "GET /v1/sandboxes/sb1/logs?stream=both&follow=false",
    "GET /v1/sandboxes/sb1/logs?stream=stdout&follow=true",
  ]);
});

test("followed logs that break off say so", async (t) => {
  const [sandbox] = await sandboxOf(t, (_, response) => {
    response.writeHead(200);
    response.write('data: {"line":"a"}\n\n', () => setImmediate(() => response.destroy()));
  });
  await assert.rejects(async () => {
    for await (const _ of sandbox.logs({ follow: true }));
  }, NetworkError);
});

test("how a command runs is sent as it was said, on every route", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (request, response) =>
    request.url.endsWith("/stream") ? sse(response, [EXIT]) : json(response, { exit_code: 0 }),
  );
  const how = { cwd: "/w", env: { A: "" }, user: "root", stdin: "" };
  await sandbox.exec("x", { timeoutSeconds: 5, ...how });
  await sandbox.exec("x", how);
  await sandbox.execStream("x", how);
  await sandbox.runCode("x", "bash", how);
  const sent = server.requests.map(bodyOf) as Record<string, unknown>[];
  assert.deepEqual(sent[0], { cmd: "x", timeout_seconds: 5, ...how });
  assert.deepEqual(sent.slice(1), [
    { cmd: "x", ...how },
    { cmd: "x", ...how },
    { cmd: "bash -c x", ...how },
  ]);
});

test("a kernel refuses what it does not take, and is checked as a command is", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (_, response) =>
    json(response, { exit_code: 1, error: "bad", stdout: "", stderr: "" }),
  );
  await assert.rejects(sandbox.runCode("1", "r", { cwd: "/" }), /r runs in a kernel, which takes no cwd/);
  assert.equal(server.requests.length, 0);
  assert.equal((await sandbox.runCode("1", "r", { env: { A: "1" } })).exitCode, 1);
  assert.deepEqual(bodyOf(server.last), { code: "1", language: "r", env: { A: "1" } });
  await assert.rejects(sandbox.runCode("1", "r", { check: true }), CommandError);
});

test("code contexts are listed, and go on", async (t) => {
  const [sandbox, server] = await sandboxOf(t, (request, response) =>
    request.method === "GET"
      ? json(response, [
          { id: "c1", language: "python", cwd: "/" },
          { id: "c2", language: "r", cwd: "/" },
        ])
      : json(response, { exit_code: 0 }),
  );
  const contexts = await sandbox.codeContexts();
  assert.deepEqual(
    contexts.map(({ id, language }) => `${id} ${language}`),
    ["c1 python", "c2 r"],
  );
  await contexts[1]?.runCode("1");
  assert.deepEqual(server.calls, [
    "GET /v1/sandboxes/sb1/repl/sessions",
    "POST /v1/sandboxes/sb1/repl/sessions/c2/run",
  ]);
});
