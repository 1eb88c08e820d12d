/** All sandboxes of an account: make, find, fork, delete. */

import type { PandaStack } from "./client.js";
import { ForkIncomplete } from "./errors.js";
import * as models from "./models.js";
import { Sandbox } from "./sandbox.js";
import * as wire from "./wire.js";

/** What sandboxes are made from when nobody says otherwise. */
export const DEFAULT_TEMPLATE = "code-interpreter";

/** What to make. */
export interface CreateOptions extends wire.CallOptions {
  /** What to make it from. Default: `code-interpreter`. */
  template?: string | undefined;
  /** How long it lives after its last use. Default: the server's. */
  ttlSeconds?: number | undefined;
  /** Live until killed. */
  persistent?: boolean | undefined;
  /** Labels of your own. */
  metadata?: Readonly<Record<string, string>> | undefined;
  /** Restore this snapshot instead of the template's. */
  fromSnapshot?: string | { readonly id: string } | undefined;
  volumes?: readonly models.VolumeMount[] | undefined;
  /** Environment of everything that runs in it, also in its snapshots and forks. */
  env?: Readonly<Record<string, string>> | undefined;
  /** What happens when `ttlSeconds` is over. Default: the server's, which is to delete. */
  onTimeout?: "delete" | "hibernate" | undefined;
  /** What its network may do. Default: the public internet, and ports for everybody. */
  network?: models.NetworkOptions | undefined;
  /** Two creates with the same key are one create. */
  idempotencyKey?: string | undefined;
  /** @deprecated The same as `ttlSeconds`. */
  ttl_seconds?: number | undefined;
  /** @deprecated The same as `fromSnapshot`. */
  from_snapshot?: string | undefined;
  /** @deprecated Has no effect: the template decides. */
  cpu?: number | undefined;
  /** @deprecated Has no effect: the template decides. */
  memoryMb?: number | undefined;
  /** @deprecated Has no effect: the template decides. */
  memory_mb?: number | undefined;
}

/** How to fork. */
export interface ForkOptions extends wire.CallOptions {
  /** Labels of the children. */
  metadata?: Readonly<Record<string, string>> | undefined;
  /** How many children; the answer is then a list. */
  count?: number | undefined;
  /** Two forks with the same key are one fork. */
  idempotencyKey?: string | undefined;
}

/** How to fork a tree. */
export interface ForkTreeOptions extends ForkOptions {
  count: number;
}

/** How to promote. */
export interface PromoteOptions extends wire.CallOptions {
  /** Delete the other branches of the tree. */
  cleanupSiblings?: boolean | undefined;
  treeId?: string | undefined;
}

/** `client.sandboxes`. */
export class SandboxesAPI {
  /** @internal */
  constructor(private readonly client: PandaStack) {}

  /**
   * Make a sandbox; it is ready for commands when this resolves. While the server has no capacity the request is
   * sent again, within the client's retry budget.
   *
   * @throws CapacityError: there was no capacity within the budget.
   */
  async create(options: CreateOptions = {}): Promise<Sandbox> {
    if ([options.cpu, options.memoryMb, options.memory_mb].some((value) => value !== undefined)) {
      console.warn("pandastack: cpu and memoryMb have no effect: the template decides them");
    }
    const from = options.fromSnapshot ?? options.from_snapshot;
    const answer = await this.client.http.create({
      method: "POST",
      path: "/sandboxes",
      json: wire.given({
        template: options.template ?? DEFAULT_TEMPLATE,
        ttl_seconds: options.ttlSeconds ?? options.ttl_seconds,
        persistent: options.persistent || undefined,
        metadata: options.metadata,
        from_snapshot: from === undefined ? undefined : models.snapshotId(from),
        volumes: models.volumeMounts(options.volumes),
        env: options.env,
        on_timeout: options.onTimeout,
        network: options.network && models.networkBody(options.network),
      }),
      headers: wire.idempotency(options.idempotencyKey),
      timeoutSeconds: wire.CREATE_TIMEOUT_SECONDS,
      signal: options.signal,
    });
    return this.#sandbox(answer);
  }

  /** Every sandbox of the account. */
  async list(options: wire.CallOptions = {}): Promise<Sandbox[]> {
    const answer = await this.client.http.request({
      method: "GET",
      path: "/sandboxes",
      signal: options.signal,
    });
    return wire.items(answer, "sandboxes").map((item) => this.#sandbox(item));
  }

  /**
   * One sandbox.
   *
   * @throws NotFoundError: there is none of this id.
   */
  async get(sandboxId: string, options: wire.CallOptions = {}): Promise<Sandbox> {
    const call = { method: "GET", path: wire.path("sandboxes", sandboxId), signal: options.signal };
    return this.#sandbox(await this.client.http.request(call));
  }

  /**
   * A second sandbox that goes on from this one's memory and disk; with `count`, a list of that many.
   *
   * @throws ForkIncomplete: some of the children could not be made.
   * @throws CapacityError: there is no room for them.
   */
  fork(sandboxId: string, options: ForkOptions & { count: number }): Promise<Sandbox[]>;
  fork(sandboxId: string, options?: ForkOptions & { count?: undefined }): Promise<Sandbox>;
  fork(sandboxId: string, options?: ForkOptions): Promise<Sandbox | Sandbox[]>;
  async fork(sandboxId: string, options: ForkOptions = {}): Promise<Sandbox | Sandbox[]> {
    const children = await this.#fork(sandboxId, "fork", options);
    return options.count === undefined ? (children[0] as Sandbox) : children;
  }

  /**
   * Forks that belong together, of which one is later promoted.
   *
   * @throws ForkIncomplete: some of the children could not be made.
   */
  forkTree(sandboxId: string, options: ForkTreeOptions): Promise<Sandbox[]> {
    return this.#fork(sandboxId, "fork-tree", options);
  }

  /** Make a branch of a fork tree a sandbox of its own, and delete its siblings if wished. */
  async promote(sandboxId: string, options: PromoteOptions = {}): Promise<models.Promotion> {
    const answer = await this.client.http.request({
      method: "POST",
      path: wire.path("sandboxes", sandboxId, "promote"),
      json: wire.given({ cleanup_siblings: options.cleanupSiblings ?? false, tree_id: options.treeId }),
      timeoutSeconds: wire.CREATE_TIMEOUT_SECONDS,
      signal: options.signal,
    });
    return models.promotion(answer);
  }

  /**
   * End a sandbox and all that is in it.
   *
   * @throws NotFoundError: there is none of this id.
   */
  async delete(sandboxId: string, options: wire.CallOptions = {}): Promise<void> {
    await this.client.http.request({
      method: "DELETE",
      path: wire.path("sandboxes", sandboxId),
      timeoutSeconds: wire.CREATE_TIMEOUT_SECONDS,
      signal: options.signal,
    });
  }

  async #fork(sandboxId: string, verb: "fork" | "fork-tree", options: ForkOptions): Promise<Sandbox[]> {
    const { count, metadata, idempotencyKey, signal } = options;
    const body = wire.given({ count, metadata });
    const answer = await this.client.http.create({
      method: "POST",
      path: wire.path("sandboxes", sandboxId, verb),
      ...(Object.keys(body).length > 0 ? { json: body } : {}),
      headers: wire.idempotency(idempotencyKey),
      timeoutSeconds: wire.CREATE_TIMEOUT_SECONDS,
      signal,
    });
    const children: Sandbox[] = [];
    for (const item of wire.forkChildren(answer)) {
      // An answer that only names a child says nothing else of it; nothing is invented here.
      children.push(
        "template" in item ? this.#sandbox(item) : await this.get(String(item["id"]), { signal }),
      );
    }
    const wanted = count ?? 1;
    if (children.length < wanted) {
      const failures = wire.forkFailures(answer);
      const why = [...new Set(Object.values(failures))].sort().join("; ") || "the server does not say why";
      const message = `${children.length} of ${wanted} children were made: ${why}`;
      throw new ForkIncomplete(message, children, failures);
    }
    return children;
  }

  #sandbox(data: unknown): Sandbox {
    return new Sandbox(this.client, models.sandboxInfo(data));
  }
}
