/** Commands of one sandbox: run and wait, or follow the output as it comes. */

import * as errors from "./errors.js";
import type { Http } from "./http.js";
import * as models from "./models.js";
import type { SseEvent } from "./sse.js";
import * as wire from "./wire.js";

/** Shell text, or a list of arguments that need no quoting. */
export type Command = string | readonly string[];

/** How a command runs. */
export interface CommandOptions extends wire.ProcessOptions {
  /** After this the command and all its children are killed. Default: the server's limit. */
  timeoutSeconds?: number | undefined;
  /** What it reads, up to about a megabyte; to talk to it while it runs, see `Sandbox.openProcess`. Default: nothing. */
  stdin?: string | undefined;
}

/** How to run a command to its end. */
export interface ExecOptions extends CommandOptions {
  /** Reject with `CommandError` on a non-zero exit. */
  check?: boolean | undefined;
}

/** How to run a command and hear of its output. A callback that returns a promise is waited for. */
export interface ExecStreamOptions extends CommandOptions {
  onStdout?: ((text: string) => unknown) | undefined;
  onStderr?: ((text: string) => unknown) | undefined;
}

/**
 * A longer silence than this no runtime's `fetch` survives by itself (Node, Bun and browsers give up after five
 * minutes), and no proxy either. Commands that may take longer run over the stream, which the server keeps alive.
 */
const LONGEST_PLAIN_EXEC_SECONDS = 240;
const KEPT_CHARACTERS = 256 * 1024;

/** Runs commands in one sandbox. */
export class SandboxCommands {
  readonly #http: Http;
  readonly #route: string;

  /** @internal */
  constructor(http: Http, sandboxId: string) {
    this.#http = http;
    this.#route = `${wire.path("sandboxes", sandboxId)}/exec`;
  }

  /**
   * Run a command to its end. A non-zero exit is a result, not an error, unless `check` is set.
   *
   * @throws SandboxTimeout: it ran out of its time and was killed with all its children.
   * @throws CommandError: only with `check`.
   */
  async run(cmd: Command, options: ExecOptions = {}): Promise<models.ExecResult> {
    const { timeoutSeconds } = options;
    const short = timeoutSeconds !== undefined && timeoutSeconds <= LONGEST_PLAIN_EXEC_SECONDS;
    const result = await (short ? this.#plain(cmd, options) : this.#collected(cmd, options));
    return options.check ? checked(result) : result;
  }

  /**
   * Run a command and follow its output: `await` it for the exit code, or iterate over it for the events.
   *
   * It starts at once when a callback is given, else when it is first awaited or iterated. Leaving the iteration
   * early closes the connection, on which the server kills the command.
   *
   * @throws SandboxTimeout: it ran out of its time.
   * @throws ExecInterrupted: the stream ended without an exit code; carries the end of what had arrived.
   */
  stream(cmd: Command, options: ExecStreamOptions = {}): ExecStream {
    return new ExecStream(this.#events(cmd, options), options);
  }

  async #plain(cmd: Command, options: ExecOptions): Promise<models.ExecResult> {
    try {
      return models.execResult(await this.#http.request(execCall(this.#route, cmd, options)));
    } catch (error) {
      throw wire.asExecError(error);
    }
  }

  async #collected(cmd: Command, options: ExecOptions): Promise<models.ExecResult> {
    const began = performance.now();
    const printed = { stdout: [] as string[], stderr: [] as string[] };
    const stdout = () => printed.stdout.join("");
    const stderr = () => printed.stderr.join("");
    let exitCode = 0;
    try {
      for await (const event of this.#events(cmd, options)) {
        if (event.type === "exit") exitCode = event.exitCode;
        else printed[event.type].push(event.text);
      }
    } catch (error) {
      throw withOutput(error, stdout(), stderr());
    }
    return models.execResultOf(stdout(), stderr(), exitCode, Math.round(performance.now() - began));
  }

  async *#events(
    cmd: Command,
    options: ExecStreamOptions,
  ): AsyncGenerator<models.ExecEvent, void, undefined> {
    const reader = new OutputReader();
    let exited = false;
    try {
      const call = execCall(`${this.#route}/stream`, cmd, options);
      for await (const raw of this.#http.events(call, (event) => event.event === "exit")) {
        if (exited) continue;
        for (const event of reader.read(raw)) {
          exited ||= event.type === "exit";
          yield event;
        }
      }
    } catch (error) {
      if (exited) return; // the command's end is known; how the connection ended does not matter
      if (error instanceof errors.NetworkError && error.sent) throw interrupted(error);
      throw wire.asExecError(error);
    }
    if (!exited) throw interrupted();
  }
}

/** A command that runs: `await` it for its exit code, or iterate over it for its events. Once. */
export class ExecStream implements AsyncIterable<models.ExecEvent>, Promise<number> {
  readonly [Symbol.toStringTag] = "ExecStream";
  readonly #events: AsyncGenerator<models.ExecEvent, void, undefined>;
  readonly #options: ExecStreamOptions;
  #exit: Promise<number> | undefined;

  /** @internal */
  constructor(events: AsyncGenerator<models.ExecEvent, void, undefined>, options: ExecStreamOptions) {
    this.#events = events;
    this.#options = options;
    if (options.onStdout || options.onStderr) this.#exit = this.#run();
  }

  /** The exit code, when the command has ended. */
  get exitCode(): Promise<number> {
    this.#exit ??= this.#run();
    return this.#exit;
  }

  /** As of a promise: awaiting the stream gives the exit code. */
  then<A = number, B = never>(
    fulfilled?: ((exitCode: number) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.exitCode.then(fulfilled, rejected);
  }

  /** As of a promise. */
  catch<B = never>(rejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<number | B> {
    return this.exitCode.catch(rejected);
  }

  /** As of a promise. */
  finally(settled?: (() => void) | null): Promise<number> {
    return this.exitCode.finally(settled);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<models.ExecEvent, void, undefined> {
    if (this.#exit !== undefined) {
      throw new TypeError("this command's output is being read already; iterate over it, or await it, once");
    }
    let settle: { resolve(exitCode: number): void; reject(reason: unknown): void } | undefined;
    this.#exit = new Promise((resolve, reject) => {
      settle = { resolve, reject };
    });
    this.#exit.catch(() => undefined); // told by the iteration itself; awaiting it too is not needed
    const tails = new Tails();
    try {
      for await (const event of this.#events) {
        if (event.type === "exit") settle?.resolve(event.exitCode);
        else tails.add(event);
        yield event;
      }
    } catch (error) {
      const told = tails.told(error);
      settle?.reject(told);
      throw told;
    } finally {
      settle?.reject(interrupted());
    }
  }

  async #run(): Promise<number> {
    const tails = new Tails();
    let exitCode: number | undefined;
    try {
      for await (const event of this.#events) {
        if (event.type === "exit") {
          exitCode = event.exitCode;
          continue;
        }
        tails.add(event);
        const callback = event.type === "stdout" ? this.#options.onStdout : this.#options.onStderr;
        await callback?.(event.text);
      }
    } catch (error) {
      throw tails.told(error);
    }
    if (exitCode === undefined) throw interrupted();
    return exitCode;
  }
}

/** Reads the events of an exec stream; text and bytes of one stream may alternate. */
class OutputReader {
  readonly #decoders = { stdout: outputDecoder(), stderr: outputDecoder() };

  *read(event: SseEvent): Generator<models.ExecEvent, void, undefined> {
    switch (event.event) {
      case "stdout":
      case "stderr":
        yield this.#output(event.event, eventData(event));
        break;
      case "exit": {
        const exitCode = models.exitCode(eventData(event));
        for (const type of ["stdout", "stderr"] as const) {
          const text = this.#decoders[type].decode();
          if (text) yield { type, text, data: new Uint8Array() };
        }
        yield { type: "exit", exitCode };
        break;
      }
      case "error":
        throw streamError(event);
    } // kinds we do not know
  }

  #output(type: "stdout" | "stderr", data: wire.Json): models.ExecOutput {
    const exact = data["base64"];
    if (typeof exact === "string") {
      const bytes = wire.fromBase64(exact);
      return { type, text: this.#decoders[type].decode(bytes, { stream: true }), data: bytes };
    }
    const chunk = String(data["chunk"] ?? "");
    return {
      type,
      text: this.#decoders[type].decode() + chunk,
      get data() {
        return new TextEncoder().encode(chunk);
      },
    };
  }
}

/** The last of what was printed, for an error that cuts it short. */
class Tails {
  readonly #kept = { stdout: "", stderr: "" };

  add({ type, text }: models.ExecOutput): void {
    const kept = this.#kept[type] + text;
    // Cut rarely: each cut copies what is kept.
    this.#kept[type] = kept.length > 2 * KEPT_CHARACTERS ? kept.slice(-KEPT_CHARACTERS) : kept;
  }

  told(error: unknown): unknown {
    return withOutput(error, this.#kept.stdout, this.#kept.stderr);
  }
}

/**
 * A command that did not fail.
 *
 * @throws CommandError: it did.
 */
export function checked(result: models.ExecResult): models.ExecResult {
  if (result.exitCode === 0) return result;
  throw new errors.CommandError(`the command exited with ${result.exitCode}: ${lastLine(result)}`, result);
}

function execCall(route: string, cmd: Command, options: CommandOptions): wire.Call {
  const { timeoutSeconds, cwd, env, user, stdin, signal } = options;
  const json = { cmd: wire.commandLine(cmd), timeout_seconds: timeoutSeconds, cwd, env, user, stdin };
  return {
    method: "POST",
    path: route,
    json: wire.given(json),
    timeoutSeconds: timeoutSeconds === undefined ? null : timeoutSeconds + wire.EXEC_MARGIN_SECONDS,
    signal,
  };
}

function eventData(event: SseEvent): wire.Json {
  const data = wire.jsonObject(event.data);
  if (data !== undefined) return data;
  throw new errors.ServerError(
    `the output stream holds an event that cannot be read: ${wire.shortened(event.data)}`,
  );
}

function streamError(event: SseEvent): unknown {
  const data = wire.jsonObject(event.data) ?? {};
  const message = String(data["error"] || event.data);
  const code = data["code"] ? String(data["code"]) : undefined;
  return code === "command_timeout"
    ? new errors.SandboxTimeout(message, { code })
    : wire.asExecError(new errors.ServerError(message, { code }));
}

function outputDecoder(): TextDecoder {
  return new TextDecoder("utf-8", { ignoreBOM: true }); // ignored by the decoder, that is: kept in the text
}

function withOutput(error: unknown, stdout: string, stderr: string): unknown {
  if (error instanceof errors.SandboxTimeout) {
    error.stdout ||= stdout;
    error.stderr ||= stderr;
  } else if (error instanceof errors.ExecInterrupted) {
    error.partialStdout = stdout;
    error.partialStderr = stderr;
  }
  return error;
}

function interrupted(cause?: unknown): errors.ExecInterrupted {
  return new errors.ExecInterrupted(
    "the output stream ended before the command's exit code arrived; " +
      "the command may have finished, failed, or still be running",
    cause === undefined ? {} : { cause },
  );
}

function lastLine(result: models.ExecResult): string {
  const text = (result.stderr || result.stdout).trim();
  return text.slice(text.lastIndexOf("\n") + 1).slice(0, 200) || "it printed nothing";
}
