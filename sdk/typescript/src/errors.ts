/**
 * Every error the SDK throws, as one tree. In brackets: what the published 0.9.0 client would throw.
 *
 * PandaStackError                  statusCode, code, requestId, retryable
 * ├── AuthError                401  no key, or a key that is unknown, revoked or expired
 * ├── NotFoundError            404  not there, or not yours
 * ├── BadRequestError          4xx  the request says something that cannot be honoured
 * │   ├── ForbiddenError       403  the key is known and not allowed to do this   [AuthError]
 * │   ├── ConflictError        409  not in this state                             [BadRequestError]
 * │   ├── TooLargeError        413                                                [BadRequestError]
 * │   └── RateLimitError       429  too many requests, or a quota is used up      [BadRequestError]
 * ├── ServerError              5xx  the platform, the host or the guest broke
 * │   ├── NotBuiltError        501  the server does not have this capability      [ServerError]
 * │   └── CapacityError    503 507  no host can take this now                     [ServerError]
 * ├── NetworkError                  no answer: refused, reset, cut short; sent    (also ConnectionError)
 * │   └── RequestTimeout            no answer in time                             [NetworkError]
 * ├── SandboxTimeout                a command or cell ran out of its time and was killed
 * ├── ExecInterrupted               an output stream ended without an exit code   [exit code 0]
 * ├── CommandError                  non-zero exit under check                     (also CommandFailed)
 * ├── ForkIncomplete                fewer children than asked for; children, failures
 * ├── TemplateBuildError            a template build failed; build
 * └── ExploreError                  an experiment could not run or no branch was viable
 *
 * A call whose `signal` is aborted rejects with the signal's reason, as `fetch` does, and not with one of these.
 */

import type { Sandbox } from "./sandbox.js";

/** What an answer says of an error beside its message. */
export interface ErrorFacts {
  statusCode?: number | undefined;
  code?: string | undefined;
  requestId?: string | undefined;
  retryable?: boolean | undefined;
  cause?: unknown;
}

/** Base of every error of this SDK. `message` is one line for people. */
export class PandaStackError extends Error {
  /** The HTTP status; absent when no answer was received. */
  readonly statusCode: number | undefined;
  /** The server's stable word for programs. */
  readonly code: string | undefined;
  /** What the server's log calls this request. */
  readonly requestId: string | undefined;
  /** Whether the server said that trying again can help. */
  readonly retryable: boolean | undefined;

  constructor(message: string, facts: ErrorFacts = {}) {
    super(message, "cause" in facts ? { cause: facts.cause } : undefined);
    this.name = new.target.name;
    this.statusCode = facts.statusCode;
    this.code = facts.code;
    this.requestId = facts.requestId;
    this.retryable = facts.retryable;
  }
}

/** No API key was found, or the server does not accept the one that was sent. */
export class AuthError extends PandaStackError {}

/** The thing does not exist, or belongs to somebody else. */
export class NotFoundError extends PandaStackError {}

/** The server refuses the request as it stands. */
export class BadRequestError extends PandaStackError {}

/** The key is valid and not allowed to do this. */
export class ForbiddenError extends BadRequestError {}

/** The thing is not in a state that allows this. */
export class ConflictError extends BadRequestError {}

/** The body is larger than the server takes. */
export class TooLargeError extends BadRequestError {}

/** Too many requests, or a quota is used up. */
export class RateLimitError extends BadRequestError {}

/** The platform, the host or the guest broke. */
export class ServerError extends PandaStackError {}

/** This server does not have the capability that was asked for. */
export class NotBuiltError extends ServerError {}

/** No host can take the sandbox now, and waiting within the retry budget did not help. */
export class CapacityError extends ServerError {}

/** The server could not be reached, or the connection broke before the answer was complete. */
export class NetworkError extends PandaStackError {
  /** Whether the request may have reached the server, so that what it asks for may have happened. */
  readonly sent: boolean;

  constructor(message: string, facts: ErrorFacts & { sent?: boolean } = {}) {
    super(message, facts);
    this.sent = facts.sent ?? true;
  }
}

/** The server did not answer in time. What it was asked to do may still happen. */
export class RequestTimeout extends NetworkError {}

/** A command or code cell ran out of its time; it was killed with all its children. */
export class SandboxTimeout extends PandaStackError {
  /** What it had printed, where that is known. */
  stdout: string;
  /** As `stdout`. */
  stderr: string;

  constructor(message: string, facts: ErrorFacts & { stdout?: string; stderr?: string } = {}) {
    super(message, facts);
    this.stdout = facts.stdout ?? "";
    this.stderr = facts.stderr ?? "";
  }
}

/** An output stream ended before it told an exit code, so the command's fate is unknown. */
export class ExecInterrupted extends PandaStackError {
  /** The end of what arrived before the break. */
  partialStdout: string;
  /** As `partialStdout`. */
  partialStderr: string;

  constructor(message: string, facts: ErrorFacts & { partialStdout?: string; partialStderr?: string } = {}) {
    super(message, facts);
    this.partialStdout = facts.partialStdout ?? "";
    this.partialStderr = facts.partialStderr ?? "";
  }
}

/** A command that was run with `check` exited with a non-zero code. */
export class CommandError extends PandaStackError {
  /** What it exited with. */
  readonly exitCode: number;
  /** All it printed. */
  readonly stdout: string;
  /** As `stdout`. */
  readonly stderr: string;

  constructor(message: string, result: { exitCode: number; stdout: string; stderr: string }) {
    super(message);
    this.exitCode = result.exitCode;
    this.stdout = result.stdout;
    this.stderr = result.stderr;
  }
}

/** Some children of a fork could not be made. Those that were made live on; use them or kill them. */
export class ForkIncomplete extends PandaStackError {
  /** The sandboxes that were made. */
  readonly children: Sandbox[];
  /** Why the others were not, by child. */
  readonly failures: Record<string, string>;

  constructor(message: string, children: Sandbox[], failures: Record<string, string>) {
    super(message);
    this.children = children;
    this.failures = failures;
  }
}

/** A template build failed or ran out of time. */
export class TemplateBuildError extends PandaStackError {
  /** The build as it was last seen. */
  readonly build: unknown;

  constructor(message: string, build?: unknown) {
    super(message);
    this.build = build;
  }
}

/** An experiment could not run, or none of its branches was viable. */
export class ExploreError extends PandaStackError {}
