/** The client: one server, one key, and what can be done there. */

import { type ClientOptions, resolve, type Settings } from "./config.js";
import { Http } from "./http.js";
import { type Account, account } from "./models.js";
import { SnapshotsAPI, TemplatesAPI, TokensAPI } from "./resources.js";
import { SandboxesAPI } from "./sandboxes.js";
import type { CallOptions } from "./wire.js";

/** A connection to a PandaStack server. One client may be shared by all that runs at once in a program. */
export class PandaStack {
  readonly sandboxes: SandboxesAPI;
  readonly templates: TemplatesAPI;
  readonly tokens: TokensAPI;
  readonly snapshots: SnapshotsAPI;
  /** @internal */
  readonly settings: Settings;
  /** @internal */
  readonly http: Http;

  /**
   * @throws TypeError: two spellings of one option disagree, or a value is not usable.
   * @throws AuthError: the key cannot be sent as a header.
   */
  constructor(options: ClientOptions = {}) {
    this.settings = resolve(options);
    this.http = new Http(this.settings, options);
    this.sandboxes = new SandboxesAPI(this);
    this.templates = new TemplatesAPI(this.http);
    this.tokens = new TokensAPI(this.http);
    this.snapshots = new SnapshotsAPI(this.http);
    Object.defineProperty(this, "settings", { enumerable: false }); // it holds the key, and clients get printed
  }

  /** The server this client speaks to. */
  get apiUrl(): string {
    return this.settings.apiUrl;
  }

  /**
   * Who the key belongs to.
   *
   * @throws AuthError: the server does not know the key.
   */
  async me(options: CallOptions = {}): Promise<Account> {
    return account(await this.http.request({ method: "GET", path: "/me", signal: options.signal }));
  }
}
