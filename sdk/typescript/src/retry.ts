/**
 * When a refused create is sent again, and after how long. Pure: it decides, others wait.
 *
 * Only refusals that promise nothing was created are retried: 503 with a `Retry-After` and the platform's own error
 * body, 507, and 429 with a `Retry-After`. Never 500, 502, a bare 503, or a broken connection.
 */

import type { PandaStackError } from "./errors.js";

const JITTER_CAPS = [1, 2, 4, 8, 15];
const FLOOR_507_SECONDS = 0.5;
const SHORTEST_LAST_WAIT_SECONDS = 0.25;

/** Told to `onCreateRetry` before each wait. */
export interface CreateRetryEvent {
  method: string;
  /** Path of the refused request, without the API prefix. */
  path: string;
  /** How many times it was refused so far. */
  attempt: number;
  statusCode: number;
  /** The refusal's text. */
  error: string;
  /** How long the client waits now. */
  delaySeconds: number;
  /** Since the first attempt. */
  elapsedSeconds: number;
  /** What the server asked for, if it did. */
  retryAfterSeconds?: number;
}

/** One refused create: the error it would throw, and what else the decision needs. */
export interface Refusal {
  error: PandaStackError;
  retryAfter: string | null;
  /** Whether the body is the platform's, and not a load balancer's. */
  fromPlatform: boolean;
}

/** The retries of one create, within a budget of seconds. */
export class RetryPlan {
  readonly #started: number;
  #refused = 0;

  constructor(
    private readonly method: string,
    private readonly path: string,
    private readonly budgetSeconds: number,
    private readonly clock: () => number = () => performance.now() / 1000,
    private readonly random: () => number = Math.random,
  ) {
    this.#started = clock();
  }

  /** What to wait for before the next attempt; absent when the refusal is final. */
  next(refusal: Refusal): CreateRetryEvent | undefined {
    const status = refusal.error.statusCode ?? 0;
    const asked = parseRetryAfter(refusal.retryAfter);
    if (!isRetried(status, asked, refusal)) return undefined;
    const elapsed = this.clock() - this.#started;
    const remaining = this.budgetSeconds - elapsed;
    const floor = Math.max(asked ?? 0, status === 507 ? FLOOR_507_SECONDS : 0);
    if (remaining <= 0 || floor > remaining) return undefined;
    const cap = JITTER_CAPS[Math.min(this.#refused, JITTER_CAPS.length - 1)] as number;
    const delay = Math.min(floor + this.random() * cap, remaining);
    if (delay === remaining && delay < SHORTEST_LAST_WAIT_SECONDS) return undefined;
    this.#refused += 1;
    return {
      method: this.method,
      path: this.path,
      attempt: this.#refused,
      statusCode: status,
      error: refusal.error.message,
      delaySeconds: delay,
      elapsedSeconds: elapsed,
      ...(asked === undefined ? {} : { retryAfterSeconds: asked }),
    };
  }
}

/** Seconds from a `Retry-After` header, a number or a date; absent when there is no usable one. */
export function parseRetryAfter(value: string | null): number | undefined {
  const text = value?.trim();
  if (!text) return undefined;
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
}

function isRetried(status: number, asked: number | undefined, refusal: Refusal): boolean {
  if (refusal.error.retryable === false) return false;
  switch (status) {
    case 503:
      return asked !== undefined && refusal.fromPlatform;
    case 429:
      return asked !== undefined;
    case 507:
      return true;
    default:
      return false;
  }
}
