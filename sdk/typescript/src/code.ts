/** Code that runs in an interpreter: once, by a command line; or cell by cell in a context that keeps its state. */

import { NotFoundError } from "./errors.js";
import type { Http } from "./http.js";
import { type Execution, execution } from "./models.js";
import { asyncDispose } from "./runtime.js";
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

/** How to run a cell. */
export interface CellOptions extends wire.CallOptions {
  /** After this the cell is stopped. Default: the server's limit. */
  timeoutSeconds?: number | undefined;
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
   * Run one cell and wait for it.
   *
   * @throws SandboxTimeout: the cell ran out of its time; the context lives on.
   */
  async runCode(code: string, options: CellOptions = {}): Promise<Execution> {
    const { timeoutSeconds, signal } = options;
    const timeoutMs = timeoutSeconds === undefined ? undefined : Math.round(timeoutSeconds * 1000);
    try {
      const answer = await this.#http.request({
        method: "POST",
        path: `${this.#route}/run`,
        json: wire.given({ code, timeout_ms: timeoutMs }),
        timeoutSeconds: timeoutSeconds === undefined ? null : timeoutSeconds + wire.EXEC_MARGIN_SECONDS,
        signal,
      });
      return execution(answer);
    } catch (error) {
      throw wire.asExecError(error);
    }
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
