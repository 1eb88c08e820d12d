/** The small resources: templates, tokens, snapshots. */

import type { Http } from "./http.js";
import { type Snapshot, snapshot, type Template, type Token, template, token } from "./models.js";
import * as wire from "./wire.js";

/** `client.templates`: what sandboxes can be made from. */
export class TemplatesAPI {
  /** @internal */
  constructor(private readonly http: Http) {}

  /** Every template the account may use. */
  async list(options: wire.CallOptions = {}): Promise<Template[]> {
    const answer = await this.http.request({ method: "GET", path: "/templates", signal: options.signal });
    return wire.items(answer, "templates").map(template);
  }

  /**
   * One template, by its name or an alias.
   *
   * @throws NotFoundError: there is none of this name.
   */
  async get(name: string, options: wire.CallOptions = {}): Promise<Template> {
    const call = { method: "GET", path: wire.path("templates", name), signal: options.signal };
    return template(await this.http.request(call));
  }

  /** Remove a template of your own. */
  async delete(name: string, options: wire.CallOptions = {}): Promise<void> {
    await this.http.request({ method: "DELETE", path: wire.path("templates", name), signal: options.signal });
  }
}

/** `client.tokens`: the account's API keys. */
export class TokensAPI {
  /** @internal */
  constructor(private readonly http: Http) {}

  /** Every key, by prefix and name; never the key itself. */
  async list(options: wire.CallOptions = {}): Promise<Token[]> {
    const answer = await this.http.request({ method: "GET", path: "/me/tokens", signal: options.signal });
    return wire.items(answer, "tokens").map(token);
  }

  /** Make a key. Its `token` is shown this once. */
  async create(
    name?: string,
    options: wire.CallOptions & { expiresInDays?: number } = {},
  ): Promise<Token & { readonly token: string }> {
    const answer = await this.http.request({
      method: "POST",
      path: "/me/tokens",
      json: wire.given({ label: name, expires_in_days: options.expiresInDays }),
      headers: wire.idempotency(),
      signal: options.signal,
    });
    const made = token(answer);
    return { ...made, token: made.token ?? "" };
  }

  /**
   * End a key.
   *
   * @throws NotFoundError: there is none of this prefix.
   */
  async revoke(prefix: string, options: wire.CallOptions = {}): Promise<void> {
    await this.http.request({
      method: "DELETE",
      path: wire.path("me", "tokens", prefix),
      signal: options.signal,
    });
  }
}

/** `client.snapshots`: what `sandbox.snapshot()` made. */
export class SnapshotsAPI {
  /** @internal */
  constructor(private readonly http: Http) {}

  /** Every snapshot, or those of one sandbox. */
  async list(options: wire.CallOptions & { sandboxId?: string } = {}): Promise<Snapshot[]> {
    const { sandboxId, signal } = options;
    const params = sandboxId === undefined ? {} : { params: { sandbox_id: sandboxId } };
    const answer = await this.http.request({ method: "GET", path: "/snapshots", ...params, signal });
    return wire.items(answer, "snapshots").map(snapshot);
  }

  /**
   * One snapshot.
   *
   * @throws NotFoundError: there is none of this id.
   */
  async get(snapshotId: string, options: wire.CallOptions = {}): Promise<Snapshot> {
    const call = { method: "GET", path: wire.path("snapshots", snapshotId), signal: options.signal };
    return snapshot(await this.http.request(call));
  }

  /**
   * Remove a snapshot.
   *
   * @throws ConflictError: something runs on it.
   */
  async delete(snapshotId: string, options: wire.CallOptions = {}): Promise<void> {
    await this.http.request({
      method: "DELETE",
      path: wire.path("snapshots", snapshotId),
      signal: options.signal,
    });
  }
}
