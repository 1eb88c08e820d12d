/**
 * PandaStack: run untrusted code in microVMs that restore and fork in a fraction of a second.
 *
 *     import { PandaStack } from "@pandastack/sdk";
 *
 *     const client = new PandaStack();
 *     await using sandbox = await client.sandboxes.create({ ttlSeconds: 600 });
 *     console.log((await sandbox.exec("echo hello")).stdout);
 */

export { PandaStack, PandaStack as Client } from "./client.js";
export {
  type CellOptions,
  type CellStreamOptions,
  CodeContext,
  type CodeLanguage,
  type KernelLanguage,
} from "./code.js";
export {
  type Command,
  type CommandOptions,
  type ExecOptions,
  ExecStream,
  type ExecStreamOptions,
  SandboxCommands,
} from "./commands.js";
export type { ClientOptions, ClientOptions as ClientConfig, TokenSource } from "./config.js";
export {
  AuthError,
  BadRequestError,
  CapacityError,
  CommandError,
  CommandError as CommandFailed,
  ConflictError,
  ExecInterrupted,
  ExploreError,
  ForbiddenError,
  ForkIncomplete,
  NetworkError,
  NetworkError as ConnectionError,
  NotBuiltError,
  NotFoundError,
  PandaStackError,
  RateLimitError,
  RequestTimeout,
  SandboxTimeout,
  ServerError,
  TemplateBuildError,
  TooLargeError,
} from "./errors.js";
export {
  type BranchOutcome,
  type Candidate,
  type ExploreOptions,
  ExploreResult,
  explore,
} from "./explore.js";
export {
  type FileContent,
  SandboxFilesystem,
  type TransferOptions,
  type WalkedDirectory,
} from "./filesystem.js";
export {
  type Account,
  type CellEvent,
  type CellException,
  type ExecEvent,
  type ExecExit,
  type ExecOutput,
  type ExecResult,
  type Execution,
  type FileInfo,
  type EgressOptions,
  type Lifecycle,
  type Network,
  type NetworkOptions,
  type Promotion,
  type Result,
  type SandboxInfo,
  type SandboxStatus,
  type Snapshot,
  type Template,
  type Token,
  type TreeNode,
  type VolumeMount,
  type WriteResult,
  walkTree,
} from "./models.js";
export { SnapshotsAPI, TemplatesAPI, TokensAPI } from "./resources.js";
export type { CreateRetryEvent } from "./retry.js";
export { type LogsOptions, Sandbox } from "./sandbox.js";
export {
  type CreateOptions,
  type ForkOptions,
  type ForkTreeOptions,
  type PromoteOptions,
  SandboxesAPI,
} from "./sandboxes.js";
export { Terminal, type TerminalOptions, type WebSocketConstructor, type WebSocketLike } from "./terminal.js";
export { VERSION } from "./version.js";
export type { CallOptions, ProcessOptions } from "./wire.js";
