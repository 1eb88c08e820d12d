/**
 * What the API answers with, as typed values.
 *
 * Answers keep the server's own fields (`size_bytes`) and carry the same under the names of this language
 * (`sizeBytes`). Every reader ignores fields it does not know, so an older client works with a newer server.
 */

import { ServerError } from "./errors.js";
import { given, isObject, type Json, object, textMap } from "./wire.js";

/** Where a sandbox stands in its life. */
export type SandboxStatus =
  "creating" | "running" | "paused" | "stopping" | "deleted" | "failed" | "hibernated" | (string & {});

/** A sandbox as the server tells of it. */
export interface SandboxInfo {
  readonly id: string;
  readonly template?: string;
  readonly cpu?: number;
  readonly memory_mb?: number;
  readonly status?: SandboxStatus;
  readonly guest_ip?: string | null;
  readonly created_at?: string;
  readonly metadata?: Readonly<Record<string, string>> | null;
  readonly from_snapshot?: string | null;
  readonly boot_ms?: number | null;
  readonly boot_mode?: string | null;
  readonly persistent?: boolean;
  readonly phases_ms?: Readonly<Record<string, number>> | null;
  readonly failure?: string | null;
  readonly [field: string]: unknown;
}

/** Who the API key belongs to. */
export interface Account {
  readonly userId: string;
  readonly email: string;
  readonly authMethod: string;
  readonly [field: string]: unknown;
}

/** A finished command. */
export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
  readonly durationMs: number;
  /** The same as `exitCode`. */
  readonly exit_code: number;
  /** The same as `durationMs`. */
  readonly duration_ms: number;
}

/** A piece of output of a running command. */
export interface ExecOutput {
  readonly type: "stdout" | "stderr";
  /** What was printed, as text; a character that is cut in two waits for its rest. */
  readonly text: string;
  /** What was printed, as bytes: exact where the server sends them, else those of the text. */
  readonly data: Uint8Array;
}

/** The last event of a command. */
export interface ExecExit {
  readonly type: "exit";
  readonly exitCode: number;
}

/** What a running command does. */
export type ExecEvent = ExecOutput | ExecExit;

/** One entry of the guest's file system. */
export interface FileInfo {
  readonly name: string;
  readonly path: string;
  readonly isDir: boolean;
  /** The same as `isDir`. */
  readonly is_dir: boolean;
  /** Bytes. */
  readonly size: number;
  /** Octal. */
  readonly mode: string;
  /** Seconds since 1970. */
  readonly mtime: number;
}

/** A written file: where it is and how many bytes it has. */
export interface WriteResult {
  readonly path: string;
  readonly bytes: number;
}

/** How long a sandbox may live, in seconds. */
export interface Lifecycle {
  readonly ttlSeconds: number | null;
  readonly persistent: boolean;
  /** Since it was last used. */
  readonly idleSeconds: number;
  readonly ttl_seconds: number | null;
  readonly idle_seconds: number;
}

/** Where a sandbox may connect to, as addresses and networks. */
export interface EgressOptions {
  /** `false` denies everything that is not allowed by name. */
  internet?: boolean | undefined;
  /** May be reached, also where `denyOut` holds it. */
  allowOut?: readonly string[] | undefined;
  denyOut?: readonly string[] | undefined;
}

/** What a sandbox's network may do. */
export interface NetworkOptions extends EgressOptions {
  /** `false`: its ports demand its traffic token in the header `e2b-traffic-access-token`. */
  publicTraffic?: boolean | undefined;
  /** What servers in it see as `Host`; `${PORT}` in it is the port. */
  maskHost?: string | undefined;
}

/** What a sandbox's network may do now. */
export interface Network {
  readonly internet: boolean;
  readonly allowOut: readonly string[];
  readonly denyOut: readonly string[];
  readonly publicTraffic: boolean;
  readonly maskHost: string | null;
  /** What its ports demand, where they are not for everybody. */
  readonly trafficToken: string | null;
}

/** What promoting a branch did. */
export interface Promotion {
  readonly winner: string;
  readonly treeId: string | null;
  readonly tree_id: string | null;
  /** The siblings that were deleted. */
  readonly deleted: readonly string[];
  /** Those that could not be, and why. */
  readonly failures: Readonly<Record<string, string>>;
}

/** A sandbox and the forks that were made of it. */
export interface TreeNode {
  readonly id: string;
  readonly status: SandboxStatus;
  readonly template: string;
  readonly createdAt: string | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly children: readonly TreeNode[];
}

/** A sandbox's memory, device state and disk at one instant. */
export interface Snapshot {
  readonly id: string;
  readonly sandboxId: string;
  readonly template: string;
  readonly sizeBytes: number;
  readonly createdAt: string | null;
  /** What its maker called it. */
  readonly name: string | null;
  readonly [field: string]: unknown;
}

/** Something sandboxes can be made from. */
export interface Template {
  readonly name: string;
  readonly sizeBytes: number | null;
  readonly cpu: number | null;
  /** MiB of guest memory. */
  readonly memoryMb: number | null;
  readonly isGlobal: boolean | null;
  readonly label: string | null;
  readonly description: string | null;
  readonly category: string | null;
  readonly base: string | null;
  readonly tools: readonly string[];
  readonly meta: Json;
  readonly [field: string]: unknown;
}

/** An API key as the server remembers it. */
export interface Token {
  readonly prefix: string;
  readonly name: string;
  /** The same as `name`. */
  readonly label: string;
  readonly createdAt: string | null;
  readonly expiresAt: string | null;
  /** The key itself; only `create` tells it. */
  readonly token?: string;
}

/** A volume to attach at create; a bare string is its name. */
export type VolumeMount =
  string | { name: string; readOnly?: boolean } | { name: string; read_only?: boolean };

/** One rich output of a code cell: the same thing in one or more MIME types. Images are base64 text. */
export interface Result {
  readonly data: Json;
  readonly png?: string;
  readonly jpeg?: string;
  readonly svg?: string;
  readonly html?: string;
  readonly markdown?: string;
  readonly text?: string;
  /** The value of an `application/json` output. */
  readonly json?: unknown;
  readonly latex?: string;
  /** A PDF document, in base64. */
  readonly pdf?: string;
  readonly javascript?: string;
  /** The first picture there is: PNG, then JPEG, then SVG. */
  readonly chart?: string;
  /** What a matplotlib figure shows, as data: `type`, `title`, `elements` and more. */
  readonly chartData?: unknown;
  /** The columns of a data frame by name. */
  readonly table?: unknown;
}

/** What ended a cell before its end. */
export interface CellException {
  readonly name: string;
  readonly value: string;
  readonly traceback: string;
}

/** What a running cell does. */
export type CellEvent =
  | { readonly type: "stdout" | "stderr"; readonly text: string }
  | { readonly type: "result"; readonly result: Result }
  | { readonly type: "exception"; readonly exception: CellException }
  | { readonly type: "exit"; readonly exitCode: number; readonly durationMs: number };

/** A finished code cell. */
export interface Execution {
  readonly results: readonly Result[];
  readonly stdout: string;
  readonly stderr: string;
  /** The formatted traceback of a cell that raised. */
  readonly error?: string;
  /** The parts of that traceback. */
  readonly exception?: CellException;
  readonly exitCode: number;
  readonly durationMs: number;
  readonly exit_code: number;
  readonly duration_ms: number;
  /** The first plain-text result, such as the value of the last expression. */
  readonly text?: string;
  /** The first PNG result, in base64. */
  readonly png?: string;
}

/**
 * A sandbox from an answer.
 *
 * @throws ServerError: the answer has no `id`, so it does not describe a sandbox.
 */
export function sandboxInfo(data: unknown): SandboxInfo {
  const info = object(data);
  return { ...info, id: required(info, "id") };
}

export function account(data: unknown): Account {
  const raw = object(data);
  return {
    ...raw,
    userId: text(raw, "user_id"),
    email: text(raw, "email"),
    authMethod: text(raw, "auth_method"),
  };
}

export function execResult(data: unknown): ExecResult {
  const raw = object(data);
  return execResultOf(text(raw, "stdout"), text(raw, "stderr"), exitCode(raw), number(raw, "duration_ms"));
}

export function execResultOf(stdout: string, stderr: string, exit: number, durationMs: number): ExecResult {
  return { stdout, stderr, exitCode: exit, durationMs, exit_code: exit, duration_ms: durationMs };
}

export function fileInfo(data: unknown, path: string): FileInfo {
  const raw = object(data);
  const isDir = Boolean(raw["is_dir"]);
  return {
    name: text(raw, "name") || (path.replace(/\/+$/, "").split("/").pop() ?? ""),
    path: text(raw, "path") || path,
    isDir,
    is_dir: isDir,
    size: number(raw, "size"),
    mode: text(raw, "mode"),
    mtime: number(raw, "mtime"),
  };
}

export function writeResult(data: unknown): WriteResult {
  const raw = object(data);
  return { path: text(raw, "path"), bytes: number(raw, "bytes") };
}

export function lifecycle(data: unknown): Lifecycle {
  const raw = object(data);
  const ttl = raw["ttl_seconds"] == null ? null : number(raw, "ttl_seconds");
  const idle = number(raw, "idle_seconds");
  return {
    ttlSeconds: ttl,
    persistent: Boolean(raw["persistent"]),
    idleSeconds: idle,
    ttl_seconds: ttl,
    idle_seconds: idle,
  };
}

/** @internal */
export function networkBody(options: NetworkOptions): Record<string, unknown> {
  return given({
    internet: options.internet,
    allow_out: options.allowOut,
    deny_out: options.denyOut,
    public_traffic: options.publicTraffic,
    mask_host: options.maskHost,
  });
}

export function network(data: unknown): Network {
  const raw = object(data);
  return {
    internet: raw["internet"] !== false,
    allowOut: list(raw, "allow_out").map(String),
    denyOut: list(raw, "deny_out").map(String),
    publicTraffic: raw["public_traffic"] !== false,
    maskHost: optional(raw, "mask_host"),
    trafficToken: optional(raw, "traffic_token"),
  };
}

export function promotion(data: unknown): Promotion {
  const raw = object(data);
  const treeId = optional(raw, "tree_id");
  return {
    winner: text(raw, "winner"),
    treeId,
    tree_id: treeId,
    deleted: list(raw, "deleted").map(String),
    failures: textMap(raw["failures"]),
  };
}

export function treeNode(data: unknown): TreeNode {
  const raw = object(data);
  for (const envelope of ["tree", "root"]) {
    if (isObject(raw[envelope])) return treeNode(raw[envelope]);
  }
  return {
    id: required(raw, "id"),
    status: text(raw, "status"),
    template: text(raw, "template"),
    createdAt: optional(raw, "created_at"),
    metadata: textMap(raw["metadata"]),
    children: list(raw, "children").map(treeNode),
  };
}

/** A node and all below it, parents first. */
export function* walkTree(node: TreeNode): Generator<TreeNode, void, undefined> {
  yield node;
  for (const child of node.children) yield* walkTree(child);
}

export function snapshot(data: unknown): Snapshot {
  const raw = object(data);
  return {
    ...raw,
    id: required(raw, "id", "snapshot_id"),
    sandboxId: text(raw, "sandbox_id"),
    template: text(raw, "template"),
    sizeBytes: number(raw, "size_bytes"),
    createdAt: optional(raw, "created_at"),
    name: optional(raw, "name"),
  };
}

/** The id of a snapshot that is given as itself or by its id. */
export function snapshotId(snapshot: string | { readonly id: string }): string {
  return typeof snapshot === "string" ? snapshot : snapshot.id;
}

export function template(data: unknown): Template {
  const raw = object(data);
  return {
    ...raw,
    name: required(raw, "name"),
    sizeBytes: raw["size_bytes"] == null ? null : number(raw, "size_bytes"),
    cpu: raw["cpu"] == null ? null : number(raw, "cpu"),
    memoryMb: raw["memory_mb"] == null ? null : number(raw, "memory_mb"),
    isGlobal: raw["is_global"] == null ? null : Boolean(raw["is_global"]),
    label: optional(raw, "label"),
    description: optional(raw, "description"),
    category: optional(raw, "category"),
    base: optional(raw, "base"),
    tools: list(raw, "tools").map(String),
    meta: isObject(raw["meta"]) ? raw["meta"] : {},
  };
}

export function token(data: unknown): Token {
  const raw = object(data);
  const name = text(raw, "label") || text(raw, "name");
  return {
    prefix: text(raw, "prefix"),
    name,
    label: name,
    createdAt: optional(raw, "created_at"),
    expiresAt: optional(raw, "expires_at"),
    ...(raw["token"] == null ? {} : { token: text(raw, "token") }),
  };
}

export function volumeMounts(given: readonly VolumeMount[] | undefined) {
  return given?.map((item) => {
    if (typeof item === "string") return { name: item, read_only: false };
    const { name, readOnly, read_only } = item as { name: string; readOnly?: boolean; read_only?: boolean };
    return { name, read_only: readOnly ?? read_only ?? false };
  });
}

export function execution(data: unknown): Execution {
  const raw = object(data);
  const results = list(raw, "results").filter(isObject).map(result);
  const plain = results.find((item) => item.text !== undefined)?.text;
  const png = results.find((item) => item.png !== undefined)?.png;
  return {
    ...execResult(raw),
    results,
    ...(raw["error"] ? { error: text(raw, "error") } : {}),
    ...(isObject(raw["exception"]) ? { exception: cellException(raw["exception"]) } : {}),
    ...(plain === undefined ? {} : { text: plain }),
    ...(png === undefined ? {} : { png }),
  };
}

/** What a streamed cell did, as a whole. */
export function executionOf(events: readonly CellEvent[]): Execution {
  const printed = (type: "stdout" | "stderr") =>
    events.map((event) => (event.type === type ? event.text : "")).join("");
  const raised = events.find((event) => event.type === "exception")?.exception;
  const end = events.find((event) => event.type === "exit");
  return execution({
    stdout: printed("stdout"),
    stderr: printed("stderr"),
    exit_code: end?.exitCode ?? (raised ? 1 : 0),
    duration_ms: end?.durationMs,
    error: raised && (raised.traceback || `${raised.name}: ${raised.value}`),
    exception: raised,
    results: events.flatMap((event) => (event.type === "result" ? [event.result.data] : [])),
  });
}

/** As an interpreter that prints its results, and the error at which it stopped, would have left it. */
export function asPrinted(done: Execution): ExecResult {
  const values = done.results.map(({ text: value }) => (value === undefined ? "" : `${value}\n`)).join("");
  const error = done.error === undefined ? "" : `${done.error}\n`;
  return execResultOf(done.stdout + values, done.stderr + error, done.exitCode, done.durationMs);
}

export function cellException(data: unknown): CellException {
  const raw = object(data);
  return { name: text(raw, "name"), value: text(raw, "value"), traceback: text(raw, "traceback") };
}

/** Whether an exit code, under either of its published names. */
export function exitCode(raw: Json): number {
  return number(raw, "exit_code" in raw ? "exit_code" : "exit");
}

const MIME_NAMES = {
  png: "image/png",
  jpeg: "image/jpeg",
  svg: "image/svg+xml",
  html: "text/html",
  markdown: "text/markdown",
  text: "text/plain",
  latex: "text/latex",
  pdf: "application/pdf",
  javascript: "application/javascript",
} as const;

const JSON_NAMES = { json: "application/json", chartData: "e2b/chart", table: "e2b/data" } as const;

export function result(given: unknown): Result {
  const raw = object(given);
  const data = "type" in raw ? { [String(raw["type"])]: raw["data"] ?? "" } : raw;
  const found: Record<string, unknown> = {};
  for (const [name, mime] of Object.entries(MIME_NAMES)) {
    if (data[mime] != null) found[name] = String(data[mime]);
  }
  const chart = found["png"] ?? found["jpeg"] ?? found["svg"];
  if (chart !== undefined) found["chart"] = chart;
  for (const [name, mime] of Object.entries(JSON_NAMES)) {
    if (data[mime] != null) found[name] = parsed(data[mime]);
  }
  return { data, ...found };
}

function parsed(value: unknown): unknown {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

function required(raw: Json, ...names: string[]): string {
  const value = names.map((name) => raw[name]).find((found) => found != null && found !== "");
  if (value === undefined) throw new ServerError(`the server's answer has no ${names[0]}`);
  return String(value);
}

function text(raw: Json, name: string): string {
  return raw[name] == null ? "" : String(raw[name]);
}

function optional(raw: Json, name: string): string | null {
  return raw[name] == null ? null : String(raw[name]);
}

function number(raw: Json, name: string): number {
  const value = Number(raw[name] ?? 0);
  if (Number.isNaN(value)) throw new ServerError(`the server's answer has no number as ${name}`);
  return value;
}

function list(raw: Json, name: string): readonly unknown[] {
  const value = raw[name];
  return Array.isArray(value) ? value : [];
}
