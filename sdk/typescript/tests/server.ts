/** A real HTTP server on loopback that records every request and answers as a test tells it to. */

import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import { type WebSocket, WebSocketServer } from "ws";
import type { ClientOptions } from "../src/config.js";
import { PandaStack } from "../src/index.js";

/** One request as it arrived. */
export interface Recorded {
  method: string;
  /** Path with query, as on the wire. */
  url: string;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

/** Answers one request. */
export type Handler = (request: Recorded, response: ServerResponse) => unknown;

export class FakeServer {
  readonly requests: Recorded[] = [];
  readonly url: string;
  closedEarly = 0;

  private constructor(port: number) {
    this.url = `http://127.0.0.1:${port}`;
  }

  /** Starts a server that lives as long as the test; `talk` is the other end of its WebSockets. */
  static async start(
    test: TestContext,
    handler: Handler,
    talk?: (peer: WebSocket) => unknown,
  ): Promise<FakeServer> {
    const server = createServer();
    if (talk) new WebSocketServer({ server }).on("connection", talk);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const fake = new FakeServer((server.address() as AddressInfo).port);
    server.on("request", async (request, response) => {
      response.on("close", () => {
        if (!response.writableFinished) fake.closedEarly += 1;
      });
      const pieces: Buffer[] = [];
      try {
        for await (const piece of request) pieces.push(piece as Buffer);
      } catch {
        return; // the client went away; the test looks at something else
      }
      const recorded = {
        method: request.method ?? "",
        url: request.url ?? "",
        headers: request.headers,
        body: Buffer.concat(pieces),
      };
      fake.requests.push(recorded);
      await handler(recorded, response);
    });
    test.after(() => {
      server.closeAllConnections();
      server.close();
    });
    return fake;
  }

  /** A client of this server. */
  client(options: ClientOptions = {}): PandaStack {
    return new PandaStack({ baseUrl: this.url, token: "pds_test", ...options });
  }

  /** The only request so far, or the newest. */
  get last(): Recorded {
    const found = this.requests.at(-1);
    if (!found) throw new Error("no request came");
    return found;
  }

  /** Requests as `METHOD path?query`. */
  get calls(): string[] {
    return this.requests.map((request) => `${request.method} ${request.url}`);
  }
}

/** Answers with JSON. */
export function json(response: ServerResponse, data: unknown, status = 200, headers: object = {}): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(data));
}

/** Answers with the pieces of an event stream, each in a write of its own. */
export async function sse(response: ServerResponse, pieces: Iterable<string | Uint8Array>): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
  for (const piece of pieces) {
    response.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  response.end();
}

/** The JSON of a request's body. */
export function bodyOf(request: Recorded): unknown {
  return JSON.parse(request.body.toString());
}

/** What the server says of a sandbox. */
export function sandboxJson(id = "sb1", extra: object = {}): object {
  return {
    id,
    template: "code-interpreter",
    cpu: 2,
    memory_mb: 1024,
    status: "running",
    guest_ip: "10.200.0.2",
    host_tap: "tap0",
    mac: "02:50:53:00:00:02",
    vsock_cid: null,
    metadata: {},
    from_snapshot: null,
    boot_ms: 99,
    boot_mode: "restore",
    created_at: "2026-01-02T03:04:05.678Z",
    persistent: false,
    phases_ms: { total: 98.7 },
    failure: null,
    ...extra,
  };
}

/** Waits until `condition` holds. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error("it did not happen");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
