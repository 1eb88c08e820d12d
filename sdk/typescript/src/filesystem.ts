/** Files of one sandbox. Bytes are exact; the stream variants never hold more than a chunk in memory. */

import * as errors from "./errors.js";
import type { Content, Http } from "./http.js";
import { type FileInfo, fileInfo, type WriteResult, writeResult } from "./models.js";
import { asBytes, concat, isServerSide } from "./runtime.js";
import * as wire from "./wire.js";

/** What a file may be written from. Text is written as UTF-8. */
export type FileContent =
  string | Uint8Array | ArrayBuffer | Blob | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>;

/** How to copy a local file. */
export interface TransferOptions extends wire.CallOptions {
  /** Told the bytes sent or received so far. */
  onProgress?: ((bytes: number) => void) | undefined;
}

/** A directory below a walked path: its path, its directories, its files. */
export interface WalkedDirectory {
  readonly dir: string;
  /** Directories removed from this list before the next step are not entered. */
  readonly dirs: FileInfo[];
  readonly files: FileInfo[];
}

/** The guest's files. Parents of a written file are made. */
export class SandboxFilesystem {
  readonly #http: Http;
  readonly #route: string;

  /** @internal */
  constructor(http: Http, sandboxId: string) {
    this.#http = http;
    this.#route = `${wire.path("sandboxes", sandboxId)}/fs`;
  }

  /**
   * The content of a file as text.
   *
   * @throws NotFoundError: there is no such file.
   * @throws PandaStackError: it is not UTF-8; read it with `readBytes`.
   */
  async read(path: string, options: wire.CallOptions = {}): Promise<string> {
    const bytes = await this.readBytes(path, options);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch (cause) {
      throw new errors.PandaStackError(`${path} is not UTF-8 text: use readBytes or readStream`, { cause });
    }
  }

  /**
   * The content of a file.
   *
   * @throws NotFoundError: there is no such file.
   */
  async readBytes(path: string, options: wire.CallOptions = {}): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for await (const piece of await this.#pieces(path, options)) pieces.push(piece);
    return concat(pieces);
  }

  /**
   * The content of a file as a stream. Cancelling it closes the connection.
   *
   * @throws NotFoundError: there is no such file.
   * @throws NetworkError: from the stream, when the content broke off.
   */
  async readStream(path: string, options: wire.CallOptions = {}): Promise<ReadableStream<Uint8Array>> {
    const pieces = await this.#pieces(path, options);
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          const { done, value } = await pieces.next();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        async cancel() {
          await pieces.return();
        },
      },
      { highWaterMark: 0 },
    );
  }

  /** Make or replace a file. A stream is sent as it is read; browsers, which cannot, read it into memory first. */
  async write(path: string, content: FileContent, options: wire.CallOptions = {}): Promise<WriteResult> {
    const body = asContent(content);
    const call: wire.Call = {
      method: "PUT",
      path: this.#route,
      params: { path },
      headers: { "content-type": "application/octet-stream" },
      timeoutSeconds: wire.TRANSFER_TIMEOUT_SECONDS + sizeOf(body) / SLOWEST_UPLOAD_BYTES_PER_SECOND,
      signal: options.signal,
    };
    return writeResult(await this.#http.request(call, body));
  }

  /** Copy a local file into the sandbox. Not in browsers. */
  async upload(localPath: string, remotePath: string, options: TransferOptions = {}): Promise<WriteResult> {
    const local = await localFiles();
    return this.write(remotePath, counted(await local.read(localPath), options.onProgress), options);
  }

  /** Copy a file out of the sandbox. The local file appears when it is whole, or not at all. Not in browsers. */
  async download(remotePath: string, localPath: string, options: TransferOptions = {}): Promise<void> {
    const local = await localFiles();
    const pieces = await this.#pieces(remotePath, options);
    try {
      await local.write(localPath, remotePath, counted(pieces, options.onProgress));
    } finally {
      await pieces.return();
    }
  }

  /** The entries of a directory. */
  async list(path = "/", options: wire.CallOptions = {}): Promise<FileInfo[]> {
    const call = { method: "GET", path: `${this.#route}/dir`, params: { path }, signal: options.signal };
    const parent = path.replace(/\/+$/, "");
    return wire
      .items(await this.#http.request(call), "entries")
      .map((entry) => fileInfo(entry, `${parent}/${entry["name"] ?? ""}`));
  }

  /**
   * What a path is.
   *
   * @throws NotFoundError: there is nothing.
   */
  async stat(path: string, options: wire.CallOptions = {}): Promise<FileInfo> {
    const call = { method: "GET", path: `${this.#route}/stat`, params: { path }, signal: options.signal };
    return fileInfo(await this.#http.request(call), path);
  }

  /** Whether there is anything at a path. */
  async exists(path: string, options: wire.CallOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, options);
      return true;
    } catch (error) {
      if (error instanceof errors.NotFoundError && error.code !== "sandbox_not_found") return false;
      throw error;
    }
  }

  /**
   * Delete a file, or a directory with all that is in it.
   *
   * @throws NotFoundError: there is nothing.
   */
  async remove(path: string, options: wire.CallOptions = {}): Promise<void> {
    await this.#http.request({
      method: "DELETE",
      path: this.#route,
      params: { path },
      signal: options.signal,
    });
  }

  /** Every directory below a path, parents first. */
  async *walk(path = "/", options: wire.CallOptions = {}): AsyncGenerator<WalkedDirectory, void, undefined> {
    const waiting = [path];
    for (let dir = waiting.pop(); dir !== undefined; dir = waiting.pop()) {
      const entries = await this.list(dir, options);
      const dirs = entries.filter((entry) => entry.isDir);
      yield { dir, dirs, files: entries.filter((entry) => !entry.isDir) };
      waiting.push(...dirs.map((entry) => entry.path).reverse());
    }
  }

  #pieces(path: string, options: wire.CallOptions) {
    return this.#http.stream({
      method: "GET",
      path: this.#route,
      params: { path },
      headers: { accept: "application/octet-stream, application/json" },
      timeoutSeconds: wire.TRANSFER_TIMEOUT_SECONDS,
      signal: options.signal,
    });
  }
}

// Bundles for browsers have local-browser.js in the place of both; pages without a bundler are told apart here.
function localFiles(): Promise<typeof import("./local.js")> {
  return isServerSide() ? import("./local.js") : import("./local-browser.js");
}

// What is sent in one piece shows no progress, so it is given time by its size.
const SLOWEST_UPLOAD_BYTES_PER_SECOND = 256 * 1024;

function sizeOf(content: Content): number {
  if (content instanceof Blob) return content.size;
  return "byteLength" in content ? content.byteLength : 0;
}

function asContent(content: FileContent): Content {
  if (typeof content === "string") return new TextEncoder().encode(content);
  if (content instanceof Uint8Array || content instanceof ArrayBuffer || content instanceof Blob) {
    return content;
  }
  // Not every browser can iterate over a stream.
  if (!(Symbol.asyncIterator in content)) return read(content);
  return content;
}

async function* read(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = stream.getReader();
  let over = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      over = done;
      if (done) return;
      yield value;
    }
  } finally {
    if (!over) await reader.cancel().catch(() => undefined);
  }
}

async function* counted(
  pieces: AsyncIterable<Uint8Array>,
  onProgress: ((bytes: number) => void) | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  let bytes = 0;
  for await (const piece of pieces) {
    yield asBytes(piece);
    bytes += piece.byteLength;
    onProgress?.(bytes);
  }
}
