/** A program in a sandbox that is talked to while it runs: in a terminal, or over plain pipes. */

import * as errors from "./errors.js";
import type { ExecOutput } from "./models.js";
import { asyncDispose } from "./runtime.js";
import * as wire from "./wire.js";

/** How to start a terminal. */
export interface TerminalOptions extends wire.ProcessOptions {
  /** Runs in it instead of a login shell. */
  cmd?: string | readonly string[] | undefined;
  /** Default: 24. */
  rows?: number | undefined;
  /** Default: 80. */
  cols?: number | undefined;
}

/** The part of the web platform's `WebSocket` that is used; that of the package `ws` has it too. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number): void;
  addEventListener(type: "open" | "close" | "error", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
}

/** A constructor of those. */
export type WebSocketConstructor = new (url: string) => WebSocketLike;

// What is sent while the program takes no input waits here, not in memory that only grows.
const MOST_UNSENT = 1024 * 1024;
const PIECE = 256 * 1024;
const POLL_MILLISECONDS = 10;

/**
 * A running program: iterate over it for its output, send it input meanwhile. It ends with its `close`.
 *
 * Output that nobody iterates over is kept in memory: the web platform's sockets cannot be told to wait.
 */
export class Terminal implements AsyncIterable<ExecOutput> {
  readonly #socket: WebSocketLike;
  readonly #waiting: ExecOutput[] = [];
  #wake: (() => void) | undefined;
  #ended = false;
  readonly #exit: Promise<number>;
  #settle!: { resolve(exitCode: number): void; reject(reason: unknown): void };
  #decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };

  /** @internal */
  constructor(socket: WebSocketLike, signal: AbortSignal | undefined) {
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    this.#exit = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.#exit.catch(() => undefined); // told by the iteration, too
    const aborted = () => this.#end(() => this.#settle.reject(signal?.reason));
    signal?.addEventListener("abort", aborted, { once: true });
    socket.addEventListener("message", ({ data }) => this.#read(data));
    socket.addEventListener("close", () => {
      signal?.removeEventListener("abort", aborted);
      this.#end(() =>
        this.#settle.reject(new errors.ExecInterrupted("the connection ended before the program did")),
      );
    });
  }

  /** The exit code, when the program has ended. */
  get exitCode(): Promise<number> {
    return this.#exit;
  }

  /** Give it input, as if typed. Waits while it takes none; does nothing once it has ended. */
  async send(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : new Uint8Array(data);
    for (let at = 0; at < bytes.length && !this.#ended; at += PIECE) {
      this.#socket.send(bytes.subarray(at, at + PIECE));
      while (this.#socket.bufferedAmount > MOST_UNSENT && !this.#ended) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
      }
    }
  }

  /** Tell it the new size of its terminal. */
  resize(rows: number, cols: number): void {
    this.#tell({ resize: { rows, cols } });
  }

  /** Let it see the end of its input; in a terminal that is Ctrl-D. */
  endInput(): void {
    this.#tell({ eof: true });
  }

  /** Hang up, on which the server ends the program with all its children. */
  close(): void {
    this.#end(() => this.#settle.reject(new errors.ExecInterrupted("the terminal was closed")));
  }

  /** Hangs up, at the end of an `await using` block. */
  async [asyncDispose](): Promise<void> {
    this.close();
  }

  /**
   * Its output as it comes, until it ends.
   *
   * @throws ExecInterrupted: the connection ended before the program did.
   * @throws PandaStackError: the sandbox was deleted, or does not run any more.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<ExecOutput, void, undefined> {
    for (;;) {
      const next = this.#waiting.shift();
      if (next !== undefined) {
        yield next;
      } else if (this.#ended) {
        await this.#exit;
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  #tell(message: object): void {
    if (!this.#ended) this.#socket.send(JSON.stringify(message));
  }

  #read(data: unknown): void {
    if (this.#ended) return;
    if (typeof data !== "string") {
      this.#print("stdout", new Uint8Array(data as ArrayBuffer));
      return;
    }
    const said = wire.jsonObject(data) ?? {};
    const exitCode = said["exit"];
    if (typeof exitCode === "number") {
      this.#end(() => this.#settle.resolve(exitCode));
    } else if (said["error"] !== undefined) {
      const status = typeof said["status"] === "number" ? said["status"] : 500;
      const error = wire.apiError(status, new Headers(), new TextEncoder().encode(data));
      this.#end(() => this.#settle.reject(error));
    } else if (typeof said["stderr"] === "string") {
      const exact = said["base64"];
      const bytes =
        typeof exact === "string" ? wire.fromBase64(exact) : new TextEncoder().encode(said["stderr"]);
      this.#print("stderr", bytes);
    }
  }

  #print(type: "stdout" | "stderr", data: Uint8Array): void {
    this.#waiting.push({ type, text: this.#decoders[type].decode(data, { stream: true }), data });
    this.#wake?.();
  }

  #end(settle: () => void): void {
    if (this.#ended) return;
    this.#ended = true;
    settle();
    this.#wake?.();
    this.#socket.close();
  }
}

/** Waits until a socket is open. Rejects, without a reason, when it does not open. */
export function opened(socket: WebSocketLike, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const aborted = () => {
      reject(signal?.reason);
      socket.close();
    };
    if (signal?.aborted) {
      aborted();
      return;
    }
    signal?.addEventListener("abort", aborted, { once: true });
    const settled = (settle: () => void) => () => {
      signal?.removeEventListener("abort", aborted);
      settle();
    };
    socket.addEventListener("open", settled(resolve));
    socket.addEventListener("error", settled(reject));
    socket.addEventListener("close", settled(reject));
  });
}
