/** Code that runs in an interpreter: once, by a command line; or cell by cell in a context that keeps its state. */

import type { CommandOptions } from "./commands.js";
import { ExecInterrupted, NetworkError, NotFoundError, SandboxTimeout, ServerError } from "./errors.js";
import type { Http } from "./http.js";
import {
  type CellEvent,
  type CellException,
  type Execution,
  cellException,
  execution,
  executionOf,
  exitCode,
  type Result,
  result,
} from "./models.js";
import { asyncDispose } from "./runtime.js";
import type { SseEvent } from "./sse.js";
import * as wire from "./wire.js";

/** The interpreters that `runCode` knows. */
export type CodeLanguage = "python" | "bash" | "shell" | "sh" | "javascript" | "node";

const MAX_INLINE_CODE_BYTES = 64 * 1024;

const INTERPRETERS: Readonly<Record<CodeLanguage, { inline: string; file: string; suffix: string }>> = {
  python: { inline: "python3 -c", file: "python3", suffix: ".py" },
  bash: { inline: "bash -c", file: "bash", suffix: ".sh" },
  shell: { inline: "sh -c", file: "sh", suffix: ".sh" },
  sh: { inline: "sh -c", file: "sh", suffix: ".sh" },
  javascript: { inline: "node -e", file: "node", suffix: ".js" },
  node: { inline: "node -e", file: "node", suffix: ".js" },
};

/** A command that runs code, and the file it needs in the guest when the code is too long for a command line. */
export interface CodeCommand {
  command: string;
  file?: string;
}

/**
 * The command that runs `code`.
 *
 * @throws TypeError: we know no interpreter of that name.
 */
export function codeCommand(code: string, language: CodeLanguage): CodeCommand {
  if (!Object.hasOwn(INTERPRETERS, language)) {
    const known = Object.keys(INTERPRETERS).join(", ");
    throw new TypeError(`runCode knows ${known}; not ${JSON.stringify(language)}`);
  }
  const { inline, file, suffix } = INTERPRETERS[language];
  if (new TextEncoder().encode(code).length <= MAX_INLINE_CODE_BYTES) {
    return { command: `${inline} ${wire.quote(code)}` };
  }
  const name = `/tmp/pandastack-${wire.uniqueName()}${suffix}`;
  return { command: `${file} ${name}; code=$?; rm -f ${name}; exit $code`, file: name };
}

/** Languages that no command line runs as a cell: they need a kernel. */
export type KernelLanguage = "typescript" | "r" | "java";

const KERNEL_LANGUAGES: readonly string[] = ["typescript", "r", "java"] satisfies KernelLanguage[];

/** Whether code of this language needs a kernel. */
export function needsKernel(language: string): language is KernelLanguage {
  return KERNEL_LANGUAGES.includes(language);
}

/** How to run a cell. */
export interface CellOptions extends wire.CallOptions {
  /** After this the cell is stopped. Default: the server's limit. */
  timeoutSeconds?: number | undefined;
  /** Environment of this cell alone. */
  env?: Readonly<Record<string, string>> | undefined;
}

/** How to run a cell and hear of what it does as it does it. A callback that returns a promise is waited for. */
export interface CellStreamOptions extends CellOptions {
  onStdout?: ((text: string) => unknown) | undefined;
  onStderr?: ((text: string) => unknown) | undefined;
  onResult?: ((result: Result) => unknown) | undefined;
  onException?: ((exception: CellException) => unknown) | undefined;
}

/**
 * The request that runs one cell in a kernel of its own.
 *
 * @throws TypeError: it is given what a kernel does not take.
 */
export function onceCall(path: string, code: string, language: string, options: CommandOptions): wire.Call {
  for (const name of ["cwd", "user", "stdin"] as const) {
    if (options[name] !== undefined)
      throw new TypeError(`${language} runs in a kernel, which takes no ${name}`);
  }
  return cellCall(path, code, options, language);
}

/** The request that runs a cell. */
export function cellCall(path: string, code: string, options: CellOptions, language?: string): wire.Call {
  const { timeoutSeconds, env, signal } = options;
  const timeoutMs = timeoutSeconds === undefined ? undefined : Math.round(timeoutSeconds * 1000);
  return {
    method: "POST",
    path,
    json: wire.given({ code, language, timeout_ms: timeoutMs, env }),
    timeoutSeconds: timeoutSeconds === undefined ? null : timeoutSeconds + wire.EXEC_MARGIN_SECONDS,
    signal,
  };
}

/** One running interpreter in a sandbox, which keeps its state from one cell to the next. */
export class CodeContext {
  readonly id: string;
  readonly language: string;
  readonly #http: Http;
  readonly #route: string;

  /** @internal */
  constructor(http: Http, sandboxId: string, sessionId: string, language: string) {
    this.id = sessionId;
    this.language = language;
    this.#http = http;
    this.#route = wire.path("sandboxes", sandboxId, "repl", "sessions", sessionId);
  }

  /**
   * Run one cell and wait for it. Callbacks hear of what it does as it does it.
   *
   * @throws SandboxTimeout: the cell ran out of its time; the context lives on.
   * @throws ExecInterrupted: with callbacks: the stream ended before the cell did.
   */
  async runCode(code: string, options: CellStreamOptions = {}): Promise<Execution> {
    const { onStdout, onStderr, onResult, onException } = options;
    if (!onStdout && !onStderr && !onResult && !onException) {
      try {
        return execution(await this.#http.request(cellCall(`${this.#route}/run`, code, options)));
      } catch (error) {
        throw wire.asExecError(error);
      }
    }
    const seen: CellEvent[] = [];
    for await (const event of this.events(code, options)) {
      seen.push(event);
      if (event.type === "stdout") await onStdout?.(event.text);
      else if (event.type === "stderr") await onStderr?.(event.text);
      else if (event.type === "result") await onResult?.(event.result);
      else if (event.type === "exception") await onException?.(event.exception);
    }
    return executionOf(seen);
  }

  /**
   * Run one cell and iterate over what it does; the last event is its `exit`. Leaving the iteration early stops the
   * cell.
   *
   * @throws SandboxTimeout: the cell ran out of its time; the context lives on.
   * @throws ExecInterrupted: the stream ended before the cell did.
   */
  async *events(code: string, options: CellOptions = {}): AsyncGenerator<CellEvent, void, undefined> {
    let exited = false;
    try {
      const call = cellCall(`${this.#route}/run/stream`, code, options);
      for await (const raw of this.#http.events(call, (event) => event.event === "exit")) {
        const event: CellEvent | undefined = exited ? undefined : cellEvent(raw);
        if (event === undefined) continue;
        exited = event.type === "exit";
        yield event;
      }
    } catch (error) {
      if (exited) return; // the cell's end is known; how the connection ended does not matter
      if (error instanceof NetworkError && error.sent)
        throw new ExecInterrupted(INTERRUPTED, { cause: error });
      throw wire.asExecError(error);
    }
    if (!exited) throw new ExecInterrupted(INTERRUPTED);
  }

  /** Put a fresh interpreter in place of this one; what runs in it is stopped. */
  async restart(options: wire.CallOptions = {}): Promise<void> {
    await this.#http.request({
      method: "POST",
      path: `${this.#route}/restart`,
      timeoutSeconds: wire.CREATE_TIMEOUT_SECONDS,
      signal: options.signal,
    });
  }

  /** End the interpreter; harmless when it is gone already. */
  async close(options: wire.CallOptions = {}): Promise<void> {
    try {
      await this.#http.request({ method: "DELETE", path: this.#route, signal: options.signal });
    } catch (error) {
      if (!(error instanceof NotFoundError)) throw error;
    }
  }

  /** Closes it, at the end of an `await using` block. */
  [asyncDispose](): Promise<void> {
    return this.close();
  }
}

const INTERRUPTED =
  "the output stream ended before the cell did; the cell may have finished, failed, or still be running";

function cellEvent(event: SseEvent): CellEvent | undefined {
  const data = wire.jsonObject(event.data);
  if (data === undefined) {
    throw new ServerError(
      `the output stream holds an event that cannot be read: ${wire.shortened(event.data)}`,
    );
  }
  switch (event.event) {
    case "stdout":
    case "stderr":
      return { type: event.event, text: String(data["chunk"] ?? "") };
    case "result":
      return { type: "result", result: result(data["data"]) };
    case "exception":
      return { type: "exception", exception: cellException(data) };
    case "exit":
      return { type: "exit", exitCode: exitCode(data), durationMs: Number(data["duration_ms"] ?? 0) };
    case "error": {
      const message = String(data["error"] || event.data);
      const code = data["code"] ? String(data["code"]) : undefined;
      if (code === "command_timeout") throw new SandboxTimeout(message, { code });
      throw wire.asExecError(new ServerError(message, { code }));
    }
    default:
      return undefined; // kinds we do not know
  }
}
