/** The executor: sends a `Call` with `fetch` and turns what goes wrong into our own errors. */

import { address, type ClientOptions, checkedKey, type Settings } from "./config.js";
import * as errors from "./errors.js";
import { RetryPlan } from "./retry.js";
import { asBytes, concat, isServerSide, sleep } from "./runtime.js";
import { SseDecoder, type SseEvent } from "./sse.js";
import { opened, Terminal, type WebSocketConstructor } from "./terminal.js";
import { VERSION } from "./version.js";
import { apiError, type Call, decode, isPlatformRefusal } from "./wire.js";

/** A body to send as it is: bytes at hand, or pieces that can be read once. */
export type Content = Uint8Array | ArrayBuffer | Blob | AsyncIterable<Uint8Array>;

type Pieces = AsyncGenerator<Uint8Array, void, undefined>;

const LAST_WORDS_SECONDS = 0.25;

/** What ends a request from this side: the caller's signal, or a silence that lasts too long. */
class Watch {
  readonly #abort = new AbortController();
  readonly #caller: AbortSignal | undefined;
  #milliseconds: number | null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  timedOut = false;

  constructor(seconds: number | null, caller: AbortSignal | undefined) {
    this.#milliseconds = seconds === null ? null : Math.min(seconds * 1000, 2 ** 31 - 1);
    this.#caller = caller;
    caller?.addEventListener("abort", this.#onAbort, { once: true });
    this.touch();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Something arrived, or went out: the silence begins anew. */
  touch(): void {
    this.pause();
    if (this.#milliseconds !== null && !this.signal.aborted) {
      this.#timer = setTimeout(this.#onSilence, this.#milliseconds);
    }
  }

  /** From now on no longer than this. */
  shorten(seconds: number): void {
    this.#milliseconds = seconds * 1000;
  }

  /** The peer is not waited for now. */
  pause(): void {
    clearTimeout(this.#timer);
  }

  /** The request is over. */
  end(): void {
    this.pause();
    this.#caller?.removeEventListener("abort", this.#onAbort);
  }

  /** Leave what is left of the answer unread. */
  drop(): void {
    this.end();
    this.#abort.abort();
  }

  readonly #onAbort = (): void => {
    this.#abort.abort(this.#caller?.reason);
  };

  readonly #onSilence = (): void => {
    this.timedOut = true;
    this.#abort.abort();
  };
}

/** Speaks to one server. */
export class Http {
  readonly #settings: Settings; // private for real: it holds the key, and clients get printed
  readonly #fetch: typeof globalThis.fetch;
  readonly #onCreateRetry: ClientOptions["onCreateRetry"];
  readonly #webSocket: WebSocketConstructor | undefined;
  #key: Promise<string> | undefined;

  constructor(settings: Settings, { fetch, onCreateRetry, webSocket }: ClientOptions) {
    this.#settings = settings;
    this.#onCreateRetry = onCreateRetry;
    this.#webSocket = webSocket;
    // Looked up at each call, so that a fetch that is replaced later counts; and browsers want it called bare.
    this.#fetch = fetch ?? ((input, init) => globalThis.fetch(input, init));
  }

  /**
   * The decoded JSON of a successful answer; `undefined` when it has no body. `content` is sent as the body.
   *
   * @throws PandaStackError: see the tree in `errors.ts`.
   */
  async request(call: Call, content?: Content): Promise<unknown> {
    const answer = await this.#whole(call, content);
    if (answer.ok) return decode(answer.body);
    throw apiError(answer.status, answer.headers, answer.body);
  }

  /**
   * Like `request`, and waits through refusals for lack of capacity, within the budget.
   *
   * @throws CapacityError: there was still no capacity at the end of the budget.
   */
  async create(call: Call): Promise<unknown> {
    const plan = new RetryPlan(call.method, call.path, this.#settings.retryBudgetSeconds);
    for (;;) {
      const answer = await this.#whole(call);
      if (answer.ok) return decode(answer.body);
      const error = apiError(answer.status, answer.headers, answer.body);
      const fromPlatform = isPlatformRefusal(answer.body);
      const retry = plan.next({ error, retryAfter: answer.headers.get("retry-after"), fromPlatform });
      if (retry === undefined) throw error;
      await this.#onCreateRetry?.(retry);
      await sleep(retry.delaySeconds, call.signal);
    }
  }

  /**
   * The body of a successful answer, piece by piece. Returns once the answer has begun; leaving the iteration early
   * closes the connection.
   *
   * @throws PandaStackError: the answer is not a success, or broke off.
   */
  async stream(call: Call): Promise<Pieces> {
    return (await this.#open(call)).pieces;
  }

  /**
   * The server-sent events of a successful answer, until it ends. After the one that `isLast` names, the end is only
   * waited for briefly: it leaves the connection fit for the next request.
   *
   * @throws NetworkError: the stream broke off inside.
   */
  async *events(
    call: Call,
    isLast?: (event: SseEvent) => boolean,
  ): AsyncGenerator<SseEvent, void, undefined> {
    const decoder = new SseDecoder();
    const headers = { accept: "text/event-stream", ...call.headers };
    const { pieces, watch } = await this.#open({ ...call, headers });
    for await (const piece of pieces) {
      try {
        for (const event of decoder.feed(piece)) {
          if (isLast?.(event)) watch.shorten(LAST_WORDS_SECONDS);
          yield event;
        }
      } catch (cause) {
        if (cause instanceof RangeError) throw new errors.ServerError(cause.message, { cause });
        throw cause;
      }
    }
  }

  /**
   * A program that is talked to over a WebSocket. The handshake carries the key in the query, since browsers cannot set
   * a header there.
   *
   * A handshake that is refused does not say why, so `explain` is asked then: an ordinary call, which rejects with the
   * reason. Where that call got a new key in place of one that had run out, the handshake is tried again.
   *
   * @throws NetworkError: it did not open, for a reason that `explain` does not know.
   */
  async talk(call: Call, explain: () => Promise<void>): Promise<Terminal> {
    const key = await this.#currentKey();
    try {
      return await this.#connect(call, key);
    } catch (error) {
      if (!(error instanceof errors.NetworkError)) throw error;
      await explain();
      const renewed = await this.#currentKey();
      if (renewed === key) throw error;
      return this.#connect(call, renewed);
    }
  }

  async #connect(call: Call, key: string): Promise<Terminal> {
    const Socket = this.#webSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
    if (Socket === undefined) {
      throw new TypeError("this runtime has no WebSocket: pass { webSocket } with that of the package `ws`");
    }
    const query = new URLSearchParams(call.params);
    query.set("access_token", key);
    const url = address(this.#settings.apiUrl, call.path).replace(/^http/, "ws");
    call.signal?.throwIfAborted();
    const socket = new Socket(`${url}?${query}`);
    const terminal = new Terminal(socket, call.signal); // before it opens: it must not miss a word
    try {
      await opened(socket, call.signal);
    } catch (cause) {
      call.signal?.throwIfAborted();
      throw new errors.NetworkError(`no WebSocket to ${this.#settings.apiUrl}`, { cause, sent: false });
    }
    return terminal;
  }

  async #open(call: Call): Promise<{ pieces: Pieces; watch: Watch }> {
    const { response, watch } = await this.#send(call);
    if (response.ok) {
      const pieces = this.#pieces(response, watch, call.signal);
      await pieces.next(); // begun, so that leaving it unread closes the connection, too
      return { pieces, watch };
    }
    throw apiError(response.status, response.headers, await this.#rest(response, watch, call.signal));
  }

  async #whole(call: Call, content?: Content) {
    const { response, watch } = await this.#send(call, content);
    const body = await this.#rest(response, watch, call.signal);
    return { ok: response.ok, status: response.status, headers: response.headers, body };
  }

  async #rest(response: Response, watch: Watch, signal: AbortSignal | undefined) {
    const pieces: Uint8Array[] = [];
    for await (const piece of this.#pieces(response, watch, signal)) pieces.push(piece);
    return concat(pieces);
  }

  async *#pieces(response: Response, watch: Watch, signal: AbortSignal | undefined): Pieces {
    const reader = response.body?.getReader();
    let over = false;
    try {
      yield new Uint8Array();
      while (reader !== undefined) {
        const { done, value } = await reader.read().catch((error: unknown) => {
          over = true;
          throw this.#translated(error, watch, signal);
        });
        if (done) break;
        watch.pause(); // how long the caller takes is the caller's affair
        yield value;
        watch.touch();
      }
      over = true;
    } finally {
      if (over) watch.end();
      else watch.drop();
    }
  }

  async #send(call: Call, content?: Content): Promise<{ response: Response; watch: Watch }> {
    const key = await this.#currentKey();
    const sent = await this.#attempt(call, key, content);
    if (sent.response.status !== 401 || typeof this.#settings.token !== "function" || isStream(content)) {
      return sent;
    }
    // The key may have run out: nothing was done, so with a new one the same request can go again.
    if ((await this.#currentKey()) === key) this.#key = undefined;
    const renewed = await this.#currentKey();
    if (renewed === key) return sent;
    sent.watch.drop();
    return this.#attempt(call, renewed, content);
  }

  async #attempt(call: Call, key: string, content?: Content) {
    call.signal?.throwIfAborted();
    const { timeoutSeconds = this.#settings.timeoutSeconds } = call;
    const watch = new Watch(timeoutSeconds, call.signal);
    let sourceError: { error: unknown } | undefined;
    try {
      const init = this.#init(call, key, watch);
      if (isStream(content)) {
        const failed = (error: unknown) => {
          sourceError = { error };
        };
        await setStream(init, content, watch, failed);
      } else if (content !== undefined) {
        init.body = content as BodyInit;
      }
      const query = call.params ? `?${new URLSearchParams(call.params)}` : "";
      const response = await this.#fetch(address(this.#settings.apiUrl, call.path) + query, init);
      watch.touch();
      return { response, watch };
    } catch (error) {
      watch.drop();
      throw sourceError ? sourceError.error : this.#translated(error, watch, call.signal);
    }
  }

  #init(call: Call, key: string, watch: Watch): RequestInit {
    const headers: Record<string, string> = {
      accept: "application/json",
      authorization: `Bearer ${key}`,
      ...call.headers,
    };
    // Browsers name themselves, and would ask the server's leave to send another name.
    if (isServerSide()) headers["user-agent"] = `pandastack-typescript/${VERSION}`;
    // Manual: a followed redirect turns a POST into a GET, and hands the key to whoever it points at.
    const init: RequestInit = { method: call.method, headers, redirect: "manual", signal: watch.signal };
    if (call.json !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(call.json);
    }
    return init;
  }

  #currentKey(): Promise<string> {
    if (this.#key === undefined) {
      const asked = this.#askForKey();
      this.#key = asked;
      asked.catch(() => {
        if (this.#key === asked) this.#key = undefined; // a token endpoint that failed is asked again
      });
    }
    return this.#key;
  }

  async #askForKey(): Promise<string> {
    const { token } = this.#settings;
    if (token === undefined) {
      throw new errors.AuthError("no API key: pass { token }, or set PANDASTACK_API_KEY");
    }
    return checkedKey(typeof token === "function" ? await token() : token);
  }

  #translated(error: unknown, watch: Watch, signal: AbortSignal | undefined): unknown {
    const where = this.#settings.apiUrl;
    if (signal?.aborted) return signal.reason;
    const code = errorCode(error);
    if (watch.timedOut || code === "UND_ERR_HEADERS_TIMEOUT" || code === "UND_ERR_BODY_TIMEOUT") {
      return new errors.RequestTimeout(`${where} did not answer in time`, { cause: error });
    }
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    const what = cause instanceof Error ? cause.message || cause.name : String(cause);
    if (code === undefined ? what.includes("client error (Connect)") : NOT_SENT.has(code)) {
      const message = `cannot reach ${where} (${code ?? what}): is the server running?`;
      return new errors.NetworkError(message, { cause: error, sent: false });
    }
    return new errors.NetworkError(`the connection to ${where} broke: ${what}`, { cause: error });
  }
}

// What Node and Bun call connections that were never made; Deno says it in the message.
const NOT_SENT = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
  "ConnectionRefused",
  "FailedToOpenSocket",
]);

function errorCode(error: unknown): string | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    const first = at instanceof AggregateError ? at.errors[0] : undefined;
    const code = (at as { code?: unknown }).code ?? (first as { code?: unknown } | undefined)?.code;
    if (typeof code === "string") return code;
  }
  return undefined;
}

function isStream(content: Content | undefined): content is AsyncIterable<Uint8Array> {
  return typeof content === "object" && Symbol.asyncIterator in content;
}

async function setStream(
  init: RequestInit & { duplex?: "half" },
  content: AsyncIterable<Uint8Array>,
  watch: Watch,
  failed: (error: unknown) => void,
): Promise<void> {
  const iterator = watched(content, watch, failed);
  if (!isServerSide()) {
    // Browsers send streams over HTTP/2 only, and some not at all.
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    for await (const piece of iterator) pieces.push(new Uint8Array(piece));
    init.body = new Blob(pieces);
    return;
  }
  init.body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await iterator.return(undefined);
    },
  });
  init.duplex = "half";
}

async function* watched(
  content: AsyncIterable<Uint8Array>,
  watch: Watch,
  failed: (error: unknown) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    watch.pause(); // a source may be slow; the server is not waited for meanwhile
    for await (const piece of content) {
      watch.touch();
      if (piece.byteLength > 0) yield asBytes(piece);
      watch.pause();
    }
    watch.touch();
  } catch (error) {
    failed(error);
    throw error;
  }
}
