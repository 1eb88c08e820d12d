/** One sandbox: its commands, files, life and branches. */

import type { PandaStack } from "./client.js";
import {
  CodeContext,
  type CodeLanguage,
  codeCommand,
  type KernelLanguage,
  needsKernel,
  onceCall,
} from "./code.js";
import {
  checked,
  type Command,
  type ExecOptions,
  type ExecStream,
  type ExecStreamOptions,
  SandboxCommands,
} from "./commands.js";
import type { ClientOptions } from "./config.js";
import { previewUrl } from "./config.js";
import { ConflictError, NotFoundError, ServerError } from "./errors.js";
import { type Candidate, type ExploreOptions, type ExploreResult, explore } from "./explore.js";
import { SandboxFilesystem } from "./filesystem.js";
import * as models from "./models.js";
import { asyncDispose } from "./runtime.js";
import type { CreateOptions, ForkOptions, ForkTreeOptions, PromoteOptions } from "./sandboxes.js";
import type { Terminal, TerminalOptions } from "./terminal.js";
import * as wire from "./wire.js";

/** What to read of a sandbox's log. */
export interface LogsOptions extends wire.CallOptions {
  stream?: "stdout" | "stderr" | "both" | undefined;
  /** Go on until the sandbox ends. */
  follow?: boolean | undefined;
}

/** A microVM. At the end of an `await using` block it is killed, unless it is persistent. */
export class Sandbox {
  readonly commands: SandboxCommands;
  readonly filesystem: SandboxFilesystem;
  readonly #client: PandaStack;
  readonly #route: string;
  #info: models.SandboxInfo;

  /** @internal */
  constructor(client: PandaStack, info: models.SandboxInfo) {
    this.#client = client;
    this.#info = info;
    this.#route = wire.path("sandboxes", info.id);
    this.commands = new SandboxCommands(client.http, info.id);
    this.filesystem = new SandboxFilesystem(client.http, info.id);
  }

  /** `sandboxes.create` of a client with these options, or of this client. */
  static async create(options?: CreateOptions, client?: ClientOptions | PandaStack): Promise<Sandbox> {
    return (await clientOf(client)).sandboxes.create(options);
  }

  /** `sandboxes.list` of a client with these options, or of this client. */
  static async list(client?: ClientOptions | PandaStack): Promise<Sandbox[]> {
    return (await clientOf(client)).sandboxes.list();
  }

  /** `sandboxes.get` of a client with these options, or of this client. */
  static async get(sandboxId: string, client?: ClientOptions | PandaStack): Promise<Sandbox> {
    return (await clientOf(client)).sandboxes.get(sandboxId);
  }

  // What the server says of it; `refresh()` brings it up to date.

  /** The server's answer as it came. */
  get info(): models.SandboxInfo {
    return this.#info;
  }

  /** Its id; also part of its preview host names. */
  get id(): string {
    return this.#info.id;
  }

  /** What it was made from. */
  get template(): string {
    return this.#info.template ?? "";
  }

  /** Virtual CPUs. */
  get cpu(): number {
    return this.#info.cpu ?? 1;
  }

  /** Guest memory in MiB. */
  get memoryMb(): number {
    return this.#info.memory_mb ?? 512;
  }

  get status(): models.SandboxStatus {
    return this.#info.status ?? "running";
  }

  /** Its address on the host. */
  get guestIp(): string | null {
    return this.#info.guest_ip ?? null;
  }

  /** RFC 3339. */
  get createdAt(): string | null {
    return this.#info.created_at ?? null;
  }

  /** The caller's own labels. */
  get metadata(): Readonly<Record<string, string>> {
    return this.#info.metadata ?? {};
  }

  /** The snapshot it was restored from, if not the template's. */
  get fromSnapshot(): string | null {
    return this.#info.from_snapshot ?? null;
  }

  /** How long its create took on the server. */
  get bootMs(): number | null {
    return this.#info.boot_ms ?? null;
  }

  /** How it came up, such as `restore`. */
  get bootMode(): string | null {
    return this.#info.boot_mode ?? null;
  }

  /** Whether it has no time to live. */
  get persistent(): boolean {
    return this.#info.persistent ?? false;
  }

  /** Where `bootMs` went. */
  get phasesMs(): Readonly<Record<string, number>> {
    return this.#info.phases_ms ?? {};
  }

  /** Why it is `failed`. */
  get failure(): string | null {
    return this.#info.failure ?? null;
  }

  /** The same as `filesystem`. */
  get files(): SandboxFilesystem {
    return this.filesystem;
  }

  // Running code

  /** Run a command to its end; errors as of `commands.run`. */
  exec(cmd: Command, options?: ExecOptions): Promise<models.ExecResult> {
    return this.commands.run(cmd, options);
  }

  /** Run a command and follow its output, by callbacks or by iterating; errors as of `commands.stream`. */
  execStream(cmd: Command, options?: ExecStreamOptions): ExecStream {
    return this.commands.stream(cmd, options);
  }

  /**
   * Run code in a fresh interpreter; TypeScript, R and Java where the template has kernels for them. For state that
   * lasts from cell to cell, and rich results, see `createCodeContext`. Options and errors as of `exec`; kernels take
   * `env` alone, not `cwd`, `user` and `stdin`.
   */
  async runCode(
    code: string,
    language: CodeLanguage | KernelLanguage = "python",
    options: ExecOptions = {},
  ): Promise<models.ExecResult> {
    if (needsKernel(language)) return this.#runOnce(code, language, options);
    const { command, file } = codeCommand(code, language);
    if (file !== undefined) await this.filesystem.write(file, code, { signal: options.signal });
    return this.exec(command, options);
  }

  async #runOnce(code: string, language: string, options: ExecOptions): Promise<models.ExecResult> {
    const call = onceCall(`${this.#route}/repl`, code, language, options);
    const answer = await this.#client.http.request(call).catch((error: unknown) => {
      throw wire.asExecError(error);
    });
    const result = models.asPrinted(models.execution(answer));
    return options.check ? checked(result) : result;
  }

  /**
   * Start an interpreter that keeps its state from one cell to the next: `python javascript typescript r java bash`.
   *
   * @throws BadRequestError: the sandbox has none for this language; says which template has.
   */
  async createCodeContext(
    language = "python",
    options: wire.CallOptions & { cwd?: string } = {},
  ): Promise<CodeContext> {
    const answer = await this.#client.http.request({
      method: "POST",
      path: `${this.#route}/repl/sessions`,
      json: wire.given({ language, cwd: options.cwd }),
      headers: wire.idempotency(),
      timeoutSeconds: wire.CREATE_TIMEOUT_SECONDS,
      signal: options.signal,
    });
    return new CodeContext(this.#client.http, this.id, String(wire.object(answer)["id"]), language);
  }

  /** All interpreters of the sandbox that keep their state, the oldest first. */
  async codeContexts(options: wire.CallOptions = {}): Promise<CodeContext[]> {
    const call = { method: "GET", path: `${this.#route}/repl/sessions`, signal: options.signal };
    const { http } = this.#client;
    return wire
      .items(await http.request(call))
      .map((row) => new CodeContext(http, this.id, String(row["id"]), String(row["language"])));
  }

  /**
   * Start a login shell, or a command, in a terminal. It ends when the terminal is closed.
   *
   * @throws ConflictError: the sandbox does not run.
   */
  terminal(options: TerminalOptions = {}): Promise<Terminal> {
    const { cmd, rows = 24, cols = 80 } = options;
    const query = wire.processQuery(cmd, options);
    query.set("rows", String(rows));
    query.set("cols", String(cols));
    return this.#talk("pty", query, options.signal);
  }

  /** Start a command over plain pipes, with stdin, byte for byte. It ends when what is returned is closed. */
  openProcess(cmd: Command, options: wire.ProcessOptions = {}): Promise<Terminal> {
    return this.#talk("stdio", wire.processQuery(cmd, options), options.signal);
  }

  /** The sandbox's log, line by line. */
  async *logs(options: LogsOptions = {}): AsyncGenerator<string, void, undefined> {
    const { stream = "both", follow = false, signal } = options;
    const call: wire.Call = {
      method: "GET",
      path: `${this.#route}/logs`,
      params: { stream, follow: String(follow) },
      timeoutSeconds: follow ? null : LOG_TIMEOUT_SECONDS,
      signal,
    };
    if (follow) {
      for await (const { event, data } of this.#client.http.events(call)) {
        const fields = wire.jsonObject(data);
        if (event === "error") throw new ServerError(String(fields?.["error"] ?? data));
        yield String(fields?.["line"] ?? fields?.["chunk"] ?? (fields ? "" : data));
      }
      return;
    }
    const headers = { accept: "text/plain, application/json" };
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    let rest = "";
    for await (const piece of await this.#client.http.stream({ ...call, headers })) {
      const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) yield line.replace(/\r$/, "");
    }
    rest += decoder.decode();
    if (rest) yield rest;
  }

  // Life

  /** Bring this object up to date with the server. */
  async refresh(options: wire.CallOptions = {}): Promise<this> {
    const answer = await this.#client.http.request({
      method: "GET",
      path: this.#route,
      signal: options.signal,
    });
    this.#info = models.sandboxInfo(answer);
    return this;
  }

  /**
   * End the sandbox and all that is in it.
   *
   * @throws NotFoundError: it is gone already.
   */
  kill(options?: wire.CallOptions): Promise<void> {
    return this.#client.sandboxes.delete(this.id, options);
  }

  /** Freeze it in memory. */
  pause(options?: wire.CallOptions): Promise<void> {
    return this.#act("pause", options);
  }

  /** Let a paused sandbox run on. */
  resume(options?: wire.CallOptions): Promise<void> {
    return this.#act("resume", options);
  }

  /** Put its memory to disk and free the host's. */
  hibernate(options?: wire.CallOptions): Promise<void> {
    return this.#act("hibernate", options);
  }

  /** Bring a hibernated sandbox back. */
  wake(options?: wire.CallOptions): Promise<void> {
    return this.#act("wake", options);
  }

  /** How long it may live, and how long it has been idle. */
  async lifecycle(options: wire.CallOptions = {}): Promise<models.Lifecycle> {
    const call = { method: "GET", path: `${this.#route}/lifecycle`, signal: options.signal };
    return models.lifecycle(await this.#client.http.request(call));
  }

  /** Let it live this many seconds from its last use. */
  setTtl(seconds: number, options?: wire.CallOptions): Promise<models.Lifecycle> {
    return this.#setLifecycle({ ttl_seconds: seconds }, options);
  }

  /** Let it live until it is killed, or take that back. */
  async setPersistent(persistent: boolean, options?: wire.CallOptions): Promise<models.Lifecycle> {
    const changed = await this.#setLifecycle({ persistent }, options);
    this.#info = { ...this.#info, persistent: changed.persistent };
    return changed;
  }

  /** What its network may do. */
  async network(options: wire.CallOptions = {}): Promise<models.Network> {
    const call = { method: "GET", path: `${this.#route}/network`, signal: options.signal };
    return models.network(await this.#client.http.request(call));
  }

  /** Change where it may connect to, as a whole and at once: connections that are no longer allowed end. */
  async setNetwork(egress: models.EgressOptions, options: wire.CallOptions = {}): Promise<models.Network> {
    const json = models.networkBody(egress);
    const call = { method: "PUT", path: `${this.#route}/network`, json, signal: options.signal };
    return models.network(await this.#client.http.request(call));
  }

  // Snapshots and branches

  /** Capture memory, device state and disk at this instant. A `name`, to tell it from others, need not be new. */
  async snapshot(options: wire.CallOptions & { name?: string } = {}): Promise<models.Snapshot> {
    const answer = await this.#client.http.create({
      method: "POST",
      path: `${this.#route}/snapshots`,
      ...(options.name === undefined ? {} : { json: { name: options.name } }),
      headers: wire.idempotency(),
      timeoutSeconds: wire.STATE_TIMEOUT_SECONDS,
      signal: options.signal,
    });
    return models.snapshot(answer);
  }

  /** Return this sandbox, under the same id, to what it was at a snapshot. */
  async rollback(snapshot: string | { readonly id: string }, options: wire.CallOptions = {}): Promise<this> {
    const answer = await this.#client.http.request({
      method: "POST",
      path: `${this.#route}/rollback`,
      json: { snapshot_id: models.snapshotId(snapshot) },
      timeoutSeconds: wire.STATE_TIMEOUT_SECONDS,
      signal: options.signal,
    });
    if (wire.isObject(answer) && answer["id"] === this.id) this.#info = models.sandboxInfo(answer);
    return this;
  }

  /**
   * A second sandbox that goes on from this one's memory and disk; with `count`, a list of that many. Errors as of
   * `sandboxes.fork`.
   */
  fork(options: ForkOptions & { count: number }): Promise<Sandbox[]>;
  fork(options?: ForkOptions & { count?: undefined }): Promise<Sandbox>;
  fork(options?: ForkOptions): Promise<Sandbox | Sandbox[]>;
  fork(options: ForkOptions = {}): Promise<Sandbox | Sandbox[]> {
    return this.#client.sandboxes.fork(this.id, options);
  }

  /** Forks that belong together, of which one is later promoted; errors as of `sandboxes.forkTree`. */
  forkTree(options: ForkTreeOptions): Promise<Sandbox[]> {
    return this.#client.sandboxes.forkTree(this.id, options);
  }

  /** Make this branch of a fork tree a sandbox of its own, and delete its siblings if wished. */
  promote(options?: PromoteOptions): Promise<models.Promotion> {
    return this.#client.sandboxes.promote(this.id, options);
  }

  /** Try candidates in parallel forks and keep the best; options and errors as of `explore`. */
  explore(candidates: readonly (Candidate | string)[], options?: ExploreOptions): Promise<ExploreResult> {
    return explore(this, candidates, options);
  }

  /** The forks this sandbox belongs to, from the first ancestor down. */
  async tree(options: wire.CallOptions = {}): Promise<models.TreeNode> {
    const call = { method: "GET", path: `${this.#route}/tree`, signal: options.signal };
    return models.treeNode(await this.#client.http.request(call));
  }

  // Reaching its ports

  /** The address under which `port` of the sandbox is reached. The id in it is the only secret. */
  previewUrl(port: number, scheme?: "http" | "https"): string {
    return previewUrl(this.#client.settings, this.id, port, scheme);
  }

  /** The addresses of the ports something listens on, by port. */
  async previewUrls(options: wire.CallOptions = {}): Promise<Record<number, string>> {
    const call = { method: "GET", path: `${this.#route}/ports`, signal: options.signal };
    const answer = await this.#client.http.request(call);
    const found = wire.isObject(answer) ? answer["ports"] : answer;
    const ports = (Array.isArray(found) ? found : []).map((item) =>
      Number(wire.isObject(item) ? item["port"] : item),
    );
    return Object.fromEntries(ports.map((port) => [port, this.previewUrl(port)]));
  }

  /** Kills it at the end of an `await using` block, unless it is persistent. */
  async [asyncDispose](): Promise<void> {
    if (this.persistent) return;
    try {
      await this.kill();
    } catch (error) {
      if (!(error instanceof NotFoundError)) throw error;
    }
  }

  #talk(kind: string, params: URLSearchParams, signal: AbortSignal | undefined): Promise<Terminal> {
    const call: wire.Call = { method: "GET", path: `${this.#route}/exec/${kind}`, params, signal };
    return this.#client.http.talk(call, async () => {
      const { id, status } = await this.refresh({ signal });
      if (status !== "running") throw new ConflictError(`sandbox ${id} is ${status}`);
    });
  }

  async #act(verb: string, options?: wire.CallOptions): Promise<void> {
    await this.#client.http.request({
      method: "POST",
      path: `${this.#route}/${verb}`,
      timeoutSeconds: wire.STATE_TIMEOUT_SECONDS,
      signal: options?.signal,
    });
  }

  async #setLifecycle(json: object, options?: wire.CallOptions): Promise<models.Lifecycle> {
    const call = { method: "PATCH", path: `${this.#route}/lifecycle`, json, signal: options?.signal };
    return models.lifecycle(await this.#client.http.request(call));
  }
}

const LOG_TIMEOUT_SECONDS = 60;

async function clientOf(given: ClientOptions | PandaStack | undefined): Promise<PandaStack> {
  const { PandaStack } = await import("./client.js"); // late, since the client knows the sandbox
  return given instanceof PandaStack ? given : new PandaStack(given);
}
