/** Where the server is and which key to show it: from options, environment or defaults. */

import { AuthError } from "./errors.js";
import type { CreateRetryEvent } from "./retry.js";
import { env } from "./runtime.js";
import type { WebSocketConstructor } from "./terminal.js";
import { jsonObject } from "./wire.js";

/** Where a server runs when nobody says otherwise. */
export const DEFAULT_API_URL = "http://127.0.0.1:8080";
const DEFAULT_TIMEOUT_SECONDS = 30;
const DEFAULT_RETRY_BUDGET_SECONDS = 60;

/**
 * An API key; or a function that gets one; or the address of an endpoint of your own that answers a POST with one, as
 * text or as JSON `{"token"}`. What it gives is kept, and asked for again when the server no longer takes it.
 */
export type TokenSource = string | URL | (() => string | Promise<string>);

/** How a client reaches its server. Everything may be left out. */
export interface ClientOptions {
  /** Origin of the server. Default: `PANDASTACK_API`, else `http://127.0.0.1:8080`. */
  baseUrl?: string | undefined;
  /** The same as `baseUrl`. */
  apiUrl?: string | undefined;
  /** The key. Default: `PANDASTACK_API_KEY`, else `PANDASTACK_TOKEN`. */
  token?: TokenSource | undefined;
  /** The same as `token`. */
  apiKey?: TokenSource | undefined;
  /** Milliseconds that an ordinary request may stay without an answer. Commands have their own. Default: 30,000. */
  timeoutMs?: number | undefined;
  /**
   * Seconds that a create goes on trying while there is no capacity; 0 disables it.
   * Default: `PANDASTACK_MAX_CREATE_RETRY_SECONDS` or 60.
   */
  maxCreateRetrySeconds?: number | undefined;
  /** Told before each such wait. */
  onCreateRetry?: ((event: CreateRetryEvent) => void | Promise<void>) | undefined;
  /** Host (and port) that preview URLs hang under. Default: `PANDASTACK_PREVIEW_HOST` or the server's own. */
  previewHost?: string | undefined;
  /**
   * What opens terminals where the runtime has no `WebSocket` (Node before 22): that of the package `ws`.
   * Default: the runtime's own.
   */
  webSocket?: WebSocketConstructor | undefined;
  /** How requests are sent, for tests and proxies. Default: the runtime's own `fetch`. */
  fetch?: typeof globalThis.fetch | undefined;
}

/** What a client uses, settled. */
export interface Settings {
  /** Origin of the API, without a trailing slash. */
  readonly apiUrl: string;
  readonly token: string | (() => string | Promise<string>) | undefined;
  readonly timeoutSeconds: number;
  readonly retryBudgetSeconds: number;
  readonly previewHost: string | undefined;
}

/**
 * Settles what a client uses, from all the spellings and places it may come from.
 *
 * @throws TypeError: two spellings of one option disagree, or a value is not usable.
 * @throws AuthError: the key cannot be sent as a header.
 */
export function resolve(options: ClientOptions): Settings {
  const token =
    oneOf("API key", { token: options.token, apiKey: options.apiKey }) ??
    env("PANDASTACK_API_KEY") ??
    env("PANDASTACK_TOKEN");
  const url = oneOf("server URL", { baseUrl: options.baseUrl, apiUrl: options.apiUrl });
  const timeoutSeconds = (options.timeoutMs ?? DEFAULT_TIMEOUT_SECONDS * 1000) / 1000;
  if (!(Number.isFinite(timeoutSeconds) && timeoutSeconds > 0)) {
    throw new TypeError(`timeoutMs must be a positive number of milliseconds, not ${options.timeoutMs}`);
  }
  return {
    apiUrl: checkedUrl(url ?? env("PANDASTACK_API") ?? DEFAULT_API_URL),
    token: keySource(token),
    timeoutSeconds,
    retryBudgetSeconds: retryBudget(options.maxCreateRetrySeconds),
    previewHost: options.previewHost ?? env("PANDASTACK_PREVIEW_HOST"),
  };
}

/** The full address of `path`, under `/v1` whether or not the configured URL names it. */
export function address(apiUrl: string, path: string): string {
  return (apiUrl.endsWith("/v1") ? apiUrl : `${apiUrl}/v1`) + path;
}

/**
 * The address under which the gateway serves `port` of a sandbox. A server on this machine is reached through
 * `*.localhost`, which needs no DNS.
 */
export function previewUrl(
  settings: Settings,
  sandboxId: string,
  port: number,
  scheme?: "http" | "https",
): string {
  const api = new URL(settings.apiUrl);
  let host = settings.previewHost;
  if (!host) {
    const name = isLoopback(api.hostname) ? "localhost" : api.hostname.replace(/^api\./, "");
    host = api.port ? `${name}:${api.port}` : name;
  }
  return `${scheme ?? api.protocol.slice(0, -1)}://${port}-${sandboxId}.${host.replace(/^\.+/, "")}`;
}

/**
 * A key as it may be sent.
 *
 * @throws AuthError: it holds characters that no key has, or nothing.
 */
export function checkedKey(key: string): string {
  const trimmed = key.trim();
  if (!/^[\x21-\x7e]+$/.test(trimmed)) {
    throw new AuthError(
      trimmed === ""
        ? "the API key is empty"
        : "the API key holds characters that no key has; was something else pasted with it?",
    );
  }
  return trimmed;
}

function keySource(token: TokenSource | undefined): Settings["token"] {
  if (typeof token === "string") return checkedKey(token);
  return token instanceof URL ? () => fromEndpoint(token) : token;
}

async function fromEndpoint(url: URL): Promise<string> {
  const answer = await globalThis
    .fetch(url, { method: "POST", redirect: "error" })
    .catch((cause: unknown) => {
      throw new AuthError(`the token endpoint ${url.origin}${url.pathname} cannot be reached`, { cause });
    });
  const text = await answer.text();
  if (!answer.ok) {
    throw new AuthError(`the token endpoint ${url.origin}${url.pathname} answered ${answer.status}`);
  }
  const token = jsonObject(text)?.["token"];
  return typeof token === "string" ? token : text;
}

function isLoopback(hostname: string): boolean {
  return /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname);
}

function checkedUrl(given: string): string {
  const url = given.trim().replace(/\/+$/, "");
  let parts: URL | undefined;
  try {
    parts = new URL(url);
  } catch {
    // said below
  }
  if (!parts?.hostname || !["http:", "https:"].includes(parts.protocol)) {
    throw new TypeError(`the server URL must look like http://host:port, not ${JSON.stringify(given)}`);
  }
  return url;
}

function oneOf<T>(what: string, spellings: Record<string, T | undefined>): T | undefined {
  const given = Object.entries(spellings).filter(([, value]) => value !== undefined && value !== "");
  if (new Set(given.map(([, value]) => value)).size > 1) {
    const names = given.map(([name]) => name).join(" and ");
    throw new TypeError(`${names} name different values for the ${what}; give one`);
  }
  return given[0]?.[1];
}

function retryBudget(explicit: number | undefined): number {
  const given = explicit ?? env("PANDASTACK_MAX_CREATE_RETRY_SECONDS") ?? DEFAULT_RETRY_BUDGET_SECONDS;
  const seconds = Number(given);
  if (!Number.isFinite(seconds) || seconds < 0) {
    throw new TypeError(
      `the create retry budget must be a number of seconds, 0 or more (0 disables it), not ${given}`,
    );
  }
  return seconds;
}
