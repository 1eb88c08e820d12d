// What the SDK must do in every runtime. No import: the same file runs in Node, Bun, Deno and a browser's page.
//
// `at` says where: the `sdk`; the platform (`baseUrl`), which is the real API over guests whose commands run in a real bash;
// an endpoint that hands out keys (`tokenUrl`), the first of which is not known to the platform; a `webSocket` where the
// runtime has none; and a `folder` for local files where there are any.

const BYTES = Uint8Array.from({ length: 1_500_000 }, (_, index) => (index * 7 + (index >> 8)) % 256);
const isBrowser = typeof document !== "undefined";

/** Runs every check in order; `told(line)` hears `ok NAME`, or `not ok NAME: WHY`. */
export async function run(at, told) {
  for (const [name, check] of Object.entries(CHECKS)) {
    try {
      await within(20_000, check(at));
      await told(`ok ${name}`);
    } catch (error) {
      await told(`not ok ${name}: ${String(error?.stack ?? error).replaceAll("\n", " | ")}`);
    }
  }
}

const CHECKS = {
  async "keys from an endpoint"(at) {
    at.client = new at.sdk.PandaStack({ ...at, token: new URL(at.tokenUrl) });
    equal((await at.client.me()).authMethod, "api_key"); // with the second key
    at.sandbox = await at.client.sandboxes.create({ template: "base", env: { MADE_WITH: "ünï" } });
  },

  async commands({ sandbox, sdk }) {
    await sandbox.files.write("/work/here", "");
    const how = { cwd: "/work", env: { A: "$B ü" }, stdin: "in\n" };
    const cmd = 'printf "%s " "$MADE_WITH" "$A"; ls; tr a-z A-Z; echo err >&2; exit 3';
    for (const timeoutSeconds of [10, undefined]) {
      const result = await sandbox.exec(cmd, { ...how, timeoutSeconds });
      equal([result.stdout, result.stderr, result.exitCode], ["ünï $B ü here\nIN\n", "err\n", 3]);
    }
    await rejects(sandbox.exec("exit 2", { check: true }), sdk.CommandError);
    await rejects(sandbox.exec("sleep 60", { timeoutSeconds: 0.2 }), sdk.SandboxTimeout);
    await rejects(sandbox.exec("true", { cwd: "/nowhere" }), sdk.BadRequestError);
    equal((await sandbox.runCode("echo $0", "bash")).stdout, "bash\n");
  },

  async "output as it comes"({ sandbox }) {
    const seen = [];
    const stream = sandbox.execStream("printf 'a\\377b'; sleep 0.3; printf ü >&2; exit 4");
    for await (const event of stream) seen.push(event);
    equal([...seen[0].data], [97, 255, 98]);
    equal([seen.at(-2).type, seen.at(-2).text, seen.at(-1).exitCode], ["stderr", "ü", 4]);
    let printed = "";
    equal(await sandbox.execStream("echo 1; echo 2", { onStdout: (text) => (printed += text) }), 0);
    equal(printed, "1\n2\n");
  },

  async "leaving and aborting kill the command"(at) {
    const left = unique();
    for await (const _ of at.sandbox.execStream(`echo; exec sleep ${left}`)) break;
    await gone(at, left);
    for (const timeoutSeconds of [60, undefined]) {
      const aborted = unique();
      const signal = AbortSignal.timeout(300);
      const error = await rejects(at.sandbox.exec(`exec sleep ${aborted}`, { timeoutSeconds, signal }));
      equal(error.name, "TimeoutError");
      await gone(at, aborted);
    }
  },

  async "files, byte for byte"({ sandbox: { files } }) {
    equal((await files.write("/f/ü b.bin", BYTES)).bytes, BYTES.length);
    same(await files.readBytes("/f/ü b.bin"), BYTES);
    const copied = await files.write("/f/copy", await files.readStream("/f/ü b.bin"));
    equal(copied.bytes, BYTES.length);
    same(await files.readBytes("/f/copy"), BYTES);
    await files.write("/f/blob", new Blob([BYTES.subarray(0, 1000)]));
    same(await files.readBytes("/f/blob"), BYTES.subarray(0, 1000));
    await files.write("/f/text", "a\r\nü\0");
    equal(await files.read("/f/text"), "a\r\nü\0");
    await rejects(files.read("/f/blob"), Error, /readBytes/);
    equal((await files.list("/f")).map(({ name }) => name).sort(), ["blob", "copy", "text", "ü b.bin"]);
    await files.remove("/f/blob");
    equal([await files.exists("/f/blob"), (await files.stat("/f/text")).size], [false, 6]);
    const reader = (await files.readStream("/f/copy")).getReader();
    await reader.read();
    await reader.cancel();
  },

  async "local files"({ sandbox: { files }, folder }) {
    if (isBrowser) {
      await rejects(files.upload("x", "/x"), Error, /browsers have no local files/);
      await rejects(files.download("/f/text", "x"), Error, /browsers have no local files/);
      return;
    }
    await files.download("/f/copy", `${folder}/local`);
    let sent = 0;
    const written = await files.upload(`${folder}/local`, "/f/again", {
      onProgress: (bytes) => (sent = bytes),
    });
    equal([written.bytes, sent], [BYTES.length, BYTES.length]);
    same(await files.readBytes("/f/again"), BYTES);
  },

  async terminals({ sandbox, sdk }) {
    const how = { cwd: "/work", env: { A: "x=ü y", B: "" } };
    const shown = await sandbox.terminal({ cmd: ["sh", "-c", 'ls; echo "<$A$B>"'], ...how });
    let screen = "";
    for await (const { text } of shown) screen += text;
    equal(screen, "here\r\n<x=ü y>\r\n");
    const terminal = await sandbox.terminal({
      cmd: "stty size; read line; stty size; exit 7",
      rows: 30,
      cols: 100,
    });
    let seen = "";
    for await (const { text } of terminal) {
      seen += text;
      if (seen.includes("30 100") && !seen.includes("\r\n40")) {
        terminal.resize(40, 120);
        await terminal.send("go\n");
      }
      if (seen.includes("40 120")) break;
    }
    equal(await terminal.exitCode, 7);

    const cat = await sandbox.openProcess("ls >&2; cat; printf 'e\\377' >&2; exit 3", how);
    await cat.send(BYTES.subarray(0, 700_000));
    cat.endInput();
    const printed = { stdout: [], stderr: [] };
    for await (const { type, data } of cat) printed[type].push(data);
    same(await joined(printed.stdout), BYTES.subarray(0, 700_000));
    same(await joined(printed.stderr), Uint8Array.of(...new TextEncoder().encode("here\n"), 101, 255));
    equal(await cat.exitCode, 3);

    const abort = new AbortController();
    const waiting = await sandbox.openProcess("cat", { signal: abort.signal });
    abort.abort(new Error("enough"));
    await rejects(waiting.exitCode, Error, /enough/);
    const closed = await sandbox.terminal();
    closed.close();
    await rejects(closed.exitCode, sdk.ExecInterrupted);
    await rejects(sandbox.terminal({ rows: 0 }), sdk.NetworkError);
  },

  async "a key that has run out, and a terminal"(at) {
    const { client, sdk, sandbox } = at;
    const short = await client.tokens.create("short");
    const keys = [short.token];
    const other = new sdk.PandaStack({ ...at, token: () => keys.pop() ?? freshKey(at) });
    const same = await other.sandboxes.get(sandbox.id);
    await client.tokens.revoke(short.prefix);
    equal(await (await same.terminal({ cmd: "exit 5" })).exitCode, 5);
  },

  async "cells with state"({ sandbox }) {
    const context = await sandbox.createCodeContext("python");
    const cell = JSON.stringify([
      { type: "stdout", text: "one\n", timestamp: 1 },
      0.1,
      { type: "stderr", text: "ü", timestamp: 2 },
      { type: "result", text: "2", html: "<b>2</b>", is_main_result: true },
      { type: "error", name: "E", value: "v", traceback: "t" },
      { type: "end_of_execution" },
    ]);
    const done = await context.runCode(cell);
    equal(
      [done.stdout, done.stderr, done.text, done.exception?.name, done.exitCode],
      ["one\n", "ü", "2", "E", 1],
    );
    const heard = [];
    const streamed = await context.runCode(cell, {
      onStdout: (text) => heard.push(text),
      onResult: (result) => heard.push(result.html),
      onException: ({ value }) => heard.push(value),
    });
    equal([heard, streamed.exitCode], [["one\n", "<b>2</b>", "v"], 1]);
    const events = [];
    for await (const { type } of context.events(cell)) events.push(type);
    equal(events, ["stdout", "stderr", "result", "exception", "exit"]);
    equal(
      (await sandbox.codeContexts()).map(({ id }) => id),
      [context.id],
    );
    await context.restart();
    await context.close();
    await context.close();
    equal(await sandbox.codeContexts(), []);
  },

  async "snapshots and forks"({ client, sandbox }) {
    const snapshot = await sandbox.snapshot();
    equal((await client.snapshots.get(snapshot.id)).sandboxId, sandbox.id);
    const [first] = await sandbox.fork({ count: 2 });
    equal((await first.tree()).children.length, 2);
    const found = await sandbox.explore(["echo a", "echo abc"], {
      scoreFn: (_, { stdoutTail }) => stdoutTail.length,
      captureFiles: false, // commands see the folders of this machine, which may be large
    });
    equal([found.winnerOutcome.label, found.reaped.length], ["echo abc", 1]);
  },

  async refusals({ client, sdk, sandbox }) {
    const error = await rejects(client.sandboxes.get("nothing-here"), sdk.NotFoundError);
    equal([error.statusCode, typeof error.requestId], [404, "string"]);
    await sandbox.pause();
    await rejects(sandbox.terminal(), sdk.ConflictError, /paused/);
    await sandbox.resume();
  },

  async "a create waits for capacity"(at) {
    let refused = 0;
    const waits = [];
    const flaky = (url, init) => {
      if (init.method !== "POST" || refused++ > 0) return fetch(url, init);
      const headers = { "retry-after": "0" };
      return Promise.resolve(new Response('{"error":"full","code":"no_capacity"}', { status: 503, headers }));
    };
    const token = await freshKey(at);
    const client = new at.sdk.PandaStack({
      ...at,
      token,
      fetch: flaky,
      maxCreateRetrySeconds: 0.5, // so that the wait is short
      onCreateRetry: (wait) => waits.push(wait),
    });
    const made = await client.sandboxes.create({ template: "base" });
    equal(
      waits.map(({ statusCode }) => statusCode),
      [503],
    );
    await made.kill();
  },

  async "a server that is not there"({ sdk }) {
    const client = new sdk.PandaStack({ baseUrl: "http://127.0.0.1:9", token: "x" });
    await rejects(client.sandboxes.list(), sdk.NetworkError);
  },

  async "logs, followed and left"({ sandbox }) {
    for await (const line of sandbox.logs({ follow: true })) if (line === "hello") break;
  },

  async "the end"({ client }) {
    for (const each of await client.sandboxes.list()) await each.kill();
    equal(await client.sandboxes.list(), []);
  },
};

async function freshKey({ tokenUrl }) {
  return (await (await fetch(tokenUrl, { method: "POST" })).json()).token;
}

/** Seconds that no other process sleeps for. */
function unique() {
  return (60 + Math.random()).toFixed(9);
}

async function gone({ sandbox }, seconds) {
  const stillThere = `pgrep -fx 'sleep ${seconds}'`;
  while ((await sandbox.exec(stillThere, { timeoutSeconds: 10 })).exitCode === 0) await pause(50);
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function within(milliseconds, work) {
  const late = pause(milliseconds).then(() => {
    throw new Error(`not done within ${milliseconds} ms`);
  });
  return Promise.race([work, late]);
}

function equal(found, wanted) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${a} is not ${b}`);
}

function same(found, wanted) {
  if (found.length !== wanted.length || found.some((byte, index) => byte !== wanted[index])) {
    throw new Error(`${found.length} bytes are not the ${wanted.length} that were expected`);
  }
}

async function rejects(work, kind = Error, text = /./) {
  try {
    await work;
  } catch (error) {
    if (error instanceof kind && text.test(error.message)) return error;
    if (kind === Error && error.name === "TimeoutError") return error; // a DOMException, not everywhere an Error
    throw error;
  }
  throw new Error(`it did not reject with ${kind.name}`);
}

async function joined(pieces) {
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}
