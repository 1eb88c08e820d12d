/** How a call looks on the wire and how an answer is read. Pure: `Http` does the I/O. */

import * as errors from "./errors.js";

/** An object of an answer. */
export type Json = Readonly<Record<string, unknown>>;

/** Longest silence that is waited through, in seconds. */
export const CREATE_TIMEOUT_SECONDS = 180;
export const STATE_TIMEOUT_SECONDS = 300;
export const TRANSFER_TIMEOUT_SECONDS = 300;
/** What a request waits beyond the time of the command it carries, so that the server's verdict arrives. */
export const EXEC_MARGIN_SECONDS = 30;

/** One request, before it is sent. */
export interface Call {
  method: string;
  /** Below `/v1`, its segments already quoted. */
  path: string;
  params?: Readonly<Record<string, string>> | URLSearchParams;
  /** Body to send as JSON; absent sends no body. */
  json?: unknown;
  headers?: Readonly<Record<string, string>>;
  /** Longest silence that is waited through; absent: the client's own; `null`: for as long as the peer lives. */
  timeoutSeconds?: number | null;
  signal?: AbortSignal | undefined;
}

/** What every call takes. */
export interface CallOptions {
  /** Ends the call, which then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Where, with what and as whom something runs. */
export interface ProcessOptions extends CallOptions {
  /** The folder it runs in. Default: the user's home. */
  cwd?: string | undefined;
  /** Added to the sandbox's environment, for this alone. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Who runs it. Default: the sandbox's default user. */
  user?: string | undefined;
}

/**
 * A path of quoted segments.
 *
 * @throws TypeError: a segment is empty or steps out, which would make the request mean something else.
 */
export function path(...segments: string[]): string {
  return segments
    .map((segment) => {
      if (typeof segment !== "string" || ["", ".", ".."].includes(segment)) {
        throw new TypeError(`${JSON.stringify(segment)} is not an id or a name`);
      }
      return `/${encodeURIComponent(segment)}`;
    })
    .join("");
}

/** The header that makes a repeated create the same create. */
export function idempotency(key?: string): Record<string, string> {
  return { "idempotency-key": key || uniqueName() };
}

/** A name nobody else has. `crypto.randomUUID` is missing on pages that were not served over TLS. */
export function uniqueName(): string {
  const bytes = globalThis.crypto?.getRandomValues(new Uint8Array(16)) ?? weakRandomBytes();
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The fields that were given. */
export function given(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined && value !== null),
  );
}

/** A shell command: text as it stands, a list of arguments quoted. */
export function commandLine(cmd: string | readonly string[]): string {
  return typeof cmd === "string" ? cmd : cmd.map(quote).join(" ");
}

/** The query that starts a program to talk to. */
export function processQuery(
  cmd: string | readonly string[] | undefined,
  options: ProcessOptions,
): URLSearchParams {
  const { cwd, env = {}, user } = options;
  const query = new URLSearchParams(Object.entries(env).map(([name, value]) => ["env", `${name}=${value}`]));
  for (const [name, value] of Object.entries({ cmd: cmd && commandLine(cmd), cwd, user })) {
    if (value !== undefined) query.set(name, value);
  }
  return query;
}

/** An argument that a POSIX shell reads as exactly `text`. */
export function quote(text: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

/**
 * The JSON of a body; `undefined` of an empty one.
 *
 * @throws ServerError: it is something else; usually another server answers on this address.
 */
export function decode(body: Uint8Array): unknown {
  const text = new TextDecoder().decode(body);
  if (text.trim() === "") return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new errors.ServerError(
      `the answer is not JSON (${shortened(text)}): is this URL really that of a PandaStack server?`,
      { cause },
    );
  }
}

/**
 * An answer that must be an object.
 *
 * @throws ServerError: it is not.
 */
export function object(data: unknown): Json {
  if (isObject(data)) return data;
  const what = Array.isArray(data) ? "a list" : data === undefined ? "nothing" : typeof data;
  throw new errors.ServerError(`the server answered ${what} where an object belongs`);
}

/** A list, bare or under one of `envelopes`. */
export function items(data: unknown, ...envelopes: string[]): Json[] {
  let list = data;
  if (isObject(data)) {
    const name = [...envelopes, "items"].find((envelope) => data[envelope] != null);
    list = name === undefined ? [] : data[name];
  }
  return Array.isArray(list) ? list.filter(isObject) : [];
}

/** The children of a fork or fork-tree answer, in order, whichever of its published shapes it has. */
export function forkChildren(data: unknown): Json[] {
  return forkList(data).map((item) => (isObject(item) ? item : { id: String(item) }));
}

/** Why children of a fork are missing: `failures` as `{child: text}` or a list of objects or texts. */
export function forkFailures(data: unknown): Record<string, string> {
  const found = isObject(data) ? data["failures"] : undefined;
  if (isObject(found)) return textMap(found);
  const failures: Record<string, string> = {};
  for (const [index, item] of Array.isArray(found) ? found.entries() : []) {
    if (isObject(item)) {
      const child = item["id"] || (item["index"] ?? index);
      failures[String(child)] = String(item["error"] || JSON.stringify(item));
    } else {
      failures[String(index)] = String(item);
    }
  }
  return failures;
}

/** The error for an answer that is not a success. */
export function apiError(status: number, headers: Headers, body: Uint8Array): errors.PandaStackError {
  const text = new TextDecoder().decode(body);
  const facts = jsonObject(text) ?? {};
  const message =
    ["error", "message", "detail"].map((key) => facts[key]).find((value) => value) ??
    plainMessage(status, headers, text);
  const code = facts["code"];
  const requestId = headers.get("x-request-id") ?? facts["request_id"];
  const about = {
    statusCode: status,
    code: code ? String(code) : undefined,
    requestId: requestId ? String(requestId) : undefined,
    retryable: typeof facts["retryable"] === "boolean" ? facts["retryable"] : undefined,
  };
  if (code === "command_timeout") {
    const printed = { stdout: String(facts["stdout"] ?? ""), stderr: String(facts["stderr"] ?? "") };
    return new errors.SandboxTimeout(textOf(message), { ...about, ...printed });
  }
  return new (errorClass(status))(textOf(message), about);
}

/** Whether a refusal has the platform's own error body, which a load balancer's has not. */
export function isPlatformRefusal(body: Uint8Array): boolean {
  const error = jsonObject(new TextDecoder().decode(body))?.["error"];
  return typeof error === "string" && error.trim() !== "";
}

/** A server error of an exec, as the timeout it means where its text says so (how older servers tell). */
export function asExecError(error: unknown): unknown {
  if (!(error instanceof errors.ServerError)) return error;
  const text = error.message.toLowerCase();
  if (!/timeout|timed out|deadline exceeded/.test(text) || text.includes("i/o timeout")) return error;
  return new errors.SandboxTimeout(error.message, {
    statusCode: error.statusCode,
    code: error.code,
    requestId: error.requestId,
    retryable: error.retryable,
    cause: error,
  });
}

/** Whether `value` is an object and not a list. */
export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The object that `text` is the JSON of, if it is. */
export function jsonObject(text: string): Json | undefined {
  try {
    const data: unknown = JSON.parse(text);
    return isObject(data) ? data : undefined;
  } catch {
    return undefined;
  }
}

/** An object as texts by name. */
export function textMap(data: unknown): Record<string, string> {
  const entries = isObject(data) ? Object.entries(data) : [];
  return Object.fromEntries(entries.map(([key, value]) => [key, String(value)]));
}

/** `text` on one line, at most 200 characters of it. */
export function shortened(text: string): string {
  const line = text.slice(0, 800).split(/\s+/).join(" ").trim();
  return line.length <= 200 ? line : `${line.slice(0, 200)}…`;
}

type ErrorClass = new (message: string, facts: errors.ErrorFacts) => errors.PandaStackError;

const ERROR_CLASSES: Readonly<Record<number, ErrorClass>> = {
  401: errors.AuthError,
  403: errors.ForbiddenError,
  404: errors.NotFoundError,
  409: errors.ConflictError,
  413: errors.TooLargeError,
  429: errors.RateLimitError,
  501: errors.NotBuiltError,
  503: errors.CapacityError,
  507: errors.CapacityError,
};

function errorClass(status: number): ErrorClass {
  return ERROR_CLASSES[status] ?? (status >= 500 ? errors.ServerError : errors.BadRequestError);
}

function forkList(data: unknown): readonly unknown[] {
  if (Array.isArray(data)) return data;
  const answer = object(data);
  for (const key of ["sandboxes", "children", "items"]) {
    const list = answer[key];
    if (Array.isArray(list) && list.length > 0 && list.every(isObject)) return list;
  }
  if (isObject(answer["sandbox"])) return [answer["sandbox"]];
  if (Array.isArray(answer["children"]) && answer["children"].length > 0) return answer["children"];
  return "id" in answer ? [answer] : [];
}

function textOf(message: unknown): string {
  return typeof message === "string" ? message : JSON.stringify(message);
}

function plainMessage(status: number, headers: Headers, body: string): string {
  // Browsers show a redirect as status 0, and not where it leads.
  if (status === 0 || (status >= 300 && status < 400)) {
    return `the server redirects to ${headers.get("location") ?? "another address"}; use that as the server's URL`;
  }
  return body.trim() ? `HTTP ${status}: ${shortened(body)}` : `HTTP ${status}`;
}

// Only for Node 18 without its global `crypto`. The name need not be hard to guess, only new.
function weakRandomBytes(): Uint8Array {
  return Uint8Array.from({ length: 16 }, () => Math.floor(Math.random() * 256));
}

/**
 * Bytes that came as base64.
 *
 * @throws ServerError: it is none.
 */
export function fromBase64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch (cause) {
    throw new errors.ServerError("the output stream holds bytes that cannot be decoded", { cause });
  }
}
