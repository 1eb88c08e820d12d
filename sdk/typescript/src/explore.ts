/**
 * Best of N: run each candidate in a fork of its own, score what came of it, keep the winner.
 *
 *     sandbox ──forkTree(N)──> N branches ──run, score──> pick ──promote──> winner; the others are deleted
 *
 * A branch that fails is an outcome, not an error: `explore` rejects only when nothing can be picked.
 */

import { ExploreError, ForkIncomplete, NotFoundError, PandaStackError, SandboxTimeout } from "./errors.js";
import { parallel } from "./runtime.js";
import type { Sandbox } from "./sandbox.js";
import { type CallOptions, quote } from "./wire.js";

const MAX_BRANCHES = 100;
const DEFAULT_CONCURRENCY = 4;
const KEPT_CHARACTERS = 4096;
const KEPT_FILES = 200;
const WATCHED = "/home /root /app /work /workspace";
const PROBE_SECONDS = 15;

/** One thing to try: a shell command, or a function that is given the branch's sandbox. One of `cmd` and `fn`. */
export interface Candidate {
  /** How outcomes call it. */
  label: string;
  cmd?: string | undefined;
  /** Its result becomes the outcome's `value`. */
  fn?: ((sandbox: Sandbox) => unknown) | undefined;
  /** Seconds the command may take. Default: 60. */
  timeoutS?: number | undefined;
  /** Environment of the command. */
  env?: Readonly<Record<string, string>> | undefined;
  /** A score known beforehand; `scoreFn` is not asked. */
  score?: number | undefined;
}

/** What came of one candidate. */
export interface BranchOutcome {
  label: string;
  sandboxId: string;
  ok: boolean;
  score: number;
  exitCode: number | null;
  stdoutTail: string;
  stderrTail: string;
  filesChanged: string[];
  /** Its own run, without fork and scoring. */
  durationMs: number;
  value?: unknown;
  error: string | null;
  timedOut: boolean;
  readonly sandbox: Sandbox;
}

/** How to explore. */
export interface ExploreOptions extends CallOptions {
  /** Told the branch and its outcome, gives its score. Default: 1 for success, else 0. */
  scoreFn?: ((sandbox: Sandbox, outcome: BranchOutcome) => number | Promise<number>) | undefined;
  /** The highest score, the lowest, or a function that picks from the viable outcomes. Default: `max`. */
  select?: "max" | "min" | ((outcomes: BranchOutcome[]) => BranchOutcome | Promise<BranchOutcome>);
  /** A branch that failed cannot win. Default: true. */
  requireSuccess?: boolean | undefined;
  /** How many branches run at once. Default: 4. All are forked at once, from one instant. */
  maxConcurrency?: number | undefined;
  /** Delete the other branches. Default: true. */
  cleanupLosers?: boolean | undefined;
  /** Make the winner a sandbox of its own. Default: true. */
  promoteWinner?: boolean | undefined;
  /** Tell which files each branch changed; a text names the directories to watch. Default: true. */
  captureFiles?: boolean | string | undefined;
  /**
   * Branches live at most this long after their last use, should this process die. Default: 600. The winner gets
   * what the parent has.
   */
  ttlSeconds?: number | undefined;
  /** Told each outcome as it is known. */
  onOutcome?: ((outcome: BranchOutcome) => unknown) | undefined;
}

/** A finished experiment. */
export class ExploreResult {
  /** @internal */
  constructor(
    /** The promoted branch; `null` when it was not to be promoted. */
    readonly winner: Sandbox | null,
    /** What won. */
    readonly winnerOutcome: BranchOutcome,
    /** Every branch, best first. */
    readonly outcomes: readonly BranchOutcome[],
    /** The server's name of the fork tree. */
    readonly treeId: string,
    /** Ids of the branches that were deleted. */
    readonly reaped: readonly string[],
    /** Those that could not be, and why. */
    readonly reapFailures: Readonly<Record<string, string>>,
    /** What went wrong beside the branches themselves. */
    readonly errors: readonly string[],
  ) {}

  /** The `n` best outcomes. */
  best(n = 1): readonly BranchOutcome[] {
    return this.outcomes.slice(0, n);
  }

  /** The outcomes as text, the winner marked. */
  table(): string {
    const row = (mark: string, label: string, ...cells: string[]) =>
      `${mark} ${label.slice(0, 24).padEnd(24)}${cells.map((cell) => ` ${cell.padStart(8)}`).join("")}`;
    const rows = this.outcomes.map((outcome) =>
      row(
        outcome === this.winnerOutcome ? "*" : " ",
        outcome.label,
        outcome.score.toFixed(3),
        outcome.ok ? "yes" : "no",
        outcome.exitCode === null ? "-" : String(outcome.exitCode),
        String(outcome.durationMs),
        String(outcome.filesChanged.length),
      ),
    );
    return [row(" ", "label", "score", "ok", "exit", "ms", "files"), ...rows].join("\n");
  }
}

/**
 * Run every candidate in its own fork of `sandbox`, which runs on untouched, and keep the best.
 *
 * @param candidates one branch each; a bare string is a shell command.
 * @throws ExploreError: no candidates, too many, no branch could be forked, or none was viable. No branch is left then.
 */
export async function explore(
  sandbox: Sandbox,
  candidates: readonly (Candidate | string)[],
  options: ExploreOptions = {},
): Promise<ExploreResult> {
  if (candidates.length < 1 || candidates.length > MAX_BRANCHES) {
    throw new ExploreError(`explore takes 1 to ${MAX_BRANCHES} candidates, not ${candidates.length}`);
  }
  const { select = "max", requireSuccess = true, cleanupLosers = true, promoteWinner = true } = options;
  const run = new Experiment(sandbox, candidates.map(checked), options);
  let outcomes: BranchOutcome[];
  let winner: BranchOutcome;
  try {
    await run.fork();
    outcomes = await run.branches();
    winner = await pick(outcomes, select, requireSuccess);
  } catch (error) {
    await run.reap(undefined);
    throw error;
  }
  if (promoteWinner) await run.promote(winner.sandbox, cleanupLosers);
  if (cleanupLosers) await run.reap(winner.sandboxId);
  outcomes.sort(better(select));
  return new ExploreResult(
    promoteWinner ? winner.sandbox : null,
    winner,
    outcomes,
    run.treeId,
    run.reaped,
    run.reapFailures,
    run.errors,
  );
}

/** The branches of one `explore`: made, run, and deleted again. */
class Experiment {
  readonly reaped: string[] = [];
  readonly reapFailures: Record<string, string> = {};
  readonly errors: string[] = [];
  treeId = "";
  readonly #watched: string;
  readonly #ttlSeconds: number;
  #children: Sandbox[] = [];

  constructor(
    private readonly parent: Sandbox,
    private readonly candidates: readonly Candidate[],
    private readonly options: ExploreOptions,
  ) {
    const { captureFiles = true, ttlSeconds = 600 } = options;
    this.#watched = typeof captureFiles === "string" ? captureFiles : captureFiles ? WATCHED : "";
    this.#ttlSeconds = ttlSeconds;
  }

  /** Make one branch for each candidate; those that could not be made are reported, not fatal. */
  async fork(): Promise<void> {
    const metadata = { explore: "1", explore_ttl: String(this.#ttlSeconds) };
    const { signal } = this.options;
    try {
      this.#children = await this.parent.forkTree({ count: this.candidates.length, metadata, signal });
    } catch (error) {
      if (!(error instanceof ForkIncomplete)) throw error;
      this.#children = error.children;
      this.errors.push(error.message);
      if (this.#children.length === 0) {
        throw new ExploreError(`no branch could be forked: ${error.message}`, { cause: error });
      }
    }
    const found = this.#children.map(({ metadata: labels }) => labels["fork_tree_id"] || labels["tree_id"]);
    this.treeId = found.find(Boolean) ?? "";
    await parallel(this.#children, this.#children.length, (child) => this.#limitLife(child));
  }

  /** Run and score every branch. */
  branches(): Promise<BranchOutcome[]> {
    const pairs = this.#children.map((child, index) => [child, this.candidates[index] as Candidate] as const);
    const limit = this.options.maxConcurrency ?? DEFAULT_CONCURRENCY;
    return parallel(pairs, Math.max(1, limit), ([child, candidate]) => this.#branch(child, candidate));
  }

  /** Make the winner independent, with its parent's time to live. */
  async promote(branch: Sandbox, cleanupSiblings: boolean): Promise<void> {
    try {
      const done = await branch.promote({ cleanupSiblings, treeId: this.treeId || undefined });
      this.reaped.push(...done.deleted);
      Object.assign(this.reapFailures, done.failures);
      const life = await this.parent.lifecycle();
      if (life.persistent) await branch.setPersistent(true);
      else if (life.ttlSeconds !== null) await branch.setTtl(life.ttlSeconds);
    } catch (error) {
      if (!(error instanceof PandaStackError)) throw error;
      this.errors.push(`promote: ${error.message}`);
    }
  }

  /** Delete every branch but `keep` that is still there. */
  async reap(keep: string | undefined): Promise<void> {
    const gone = new Set([keep, ...this.reaped]);
    const losers = this.#children.filter((child) => !gone.has(child.id));
    await parallel(losers, DEFAULT_CONCURRENCY, (child) => this.#kill(child));
  }

  async #kill(child: Sandbox): Promise<void> {
    try {
      await child.kill();
    } catch (error) {
      if (!(error instanceof PandaStackError)) throw error;
      if (!(error instanceof NotFoundError)) {
        this.reapFailures[child.id] = error.message;
        return;
      }
    }
    delete this.reapFailures[child.id];
    this.reaped.push(child.id);
  }

  async #limitLife(child: Sandbox): Promise<void> {
    try {
      await child.setTtl(this.#ttlSeconds, { signal: this.options.signal });
    } catch (error) {
      if (!(error instanceof PandaStackError)) throw error;
      this.errors.push(`${child.id}: its time to live could not be set: ${error.message}`);
    }
  }

  async #branch(child: Sandbox, candidate: Candidate): Promise<BranchOutcome> {
    const since = this.#watched ? (await this.#probe(child, "date +%s.%N")).trim() : "";
    const outcome = await this.#run(child, candidate);
    if (since && outcome.ok) outcome.filesChanged = await this.#filesSince(child, since);
    await this.#score(child, candidate, outcome);
    try {
      await this.options.onOutcome?.(outcome);
    } catch (error) {
      // An onlooker's mistake must not cost the experiment.
      this.errors.push(`onOutcome(${candidate.label}): ${messageOf(error)}`);
    }
    return outcome;
  }

  async #run(sandbox: Sandbox, candidate: Candidate): Promise<BranchOutcome> {
    const { signal } = this.options;
    const outcome: BranchOutcome = {
      label: candidate.label,
      sandboxId: sandbox.id,
      ok: false,
      score: 0,
      exitCode: null,
      stdoutTail: "",
      stderrTail: "",
      filesChanged: [],
      durationMs: 0,
      error: null,
      timedOut: false,
      sandbox,
    };
    const began = performance.now();
    try {
      if (candidate.fn) {
        outcome.value = await candidate.fn(sandbox);
        outcome.ok = true;
      } else {
        const timeoutSeconds = candidate.timeoutS ?? 60;
        const result = await sandbox.exec(commandOf(candidate), { timeoutSeconds, signal });
        outcome.exitCode = result.exitCode;
        outcome.stdoutTail = result.stdout.slice(-KEPT_CHARACTERS);
        outcome.stderrTail = result.stderr.slice(-KEPT_CHARACTERS);
        outcome.ok = result.exitCode === 0;
      }
    } catch (error) {
      signal?.throwIfAborted();
      outcome.error = messageOf(error); // whatever a candidate throws is that branch's outcome
      outcome.timedOut = error instanceof SandboxTimeout;
    }
    outcome.durationMs = Math.round(performance.now() - began);
    return outcome;
  }

  async #score(child: Sandbox, candidate: Candidate, outcome: BranchOutcome): Promise<void> {
    const { scoreFn } = this.options;
    try {
      outcome.score = candidate.score ?? (scoreFn ? await scoreFn(child, outcome) : outcome.ok ? 1 : 0);
      if (typeof outcome.score !== "number" || Number.isNaN(outcome.score)) {
        throw new TypeError(`${outcome.score} is not a score`);
      }
    } catch (error) {
      // One branch that cannot be scored must not cost the others.
      outcome.ok = false;
      outcome.score = 0;
      outcome.error ??= `scoreFn: ${messageOf(error)}`;
    }
  }

  async #filesSince(child: Sandbox, since: string): Promise<string[]> {
    const find =
      `find ${this.#watched} -xdev -type f -newermt ${quote(`@${since}`)} -print0 2>/dev/null` +
      ` | head -z -n ${KEPT_FILES}`;
    return (await this.#probe(child, find)).split("\0").filter(Boolean);
  }

  async #probe(child: Sandbox, cmd: string): Promise<string> {
    try {
      const { signal } = this.options;
      return (await child.exec(cmd, { timeoutSeconds: PROBE_SECONDS, signal })).stdout;
    } catch (error) {
      if (!(error instanceof PandaStackError)) throw error;
      this.errors.push(`${child.id}: changed files are not known: ${error.message}`);
      return "";
    }
  }
}

function checked(given: Candidate | string): Candidate {
  const candidate = typeof given === "string" ? { label: given, cmd: given } : given;
  if ((candidate.cmd === undefined) === (candidate.fn === undefined)) {
    throw new ExploreError(`candidate ${JSON.stringify(candidate.label)} needs either a cmd or a fn`);
  }
  for (const name of Object.keys(candidate.env ?? {})) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw new ExploreError(
        `candidate ${JSON.stringify(candidate.label)}: ${JSON.stringify(name)} is not a variable's name`,
      );
    }
  }
  return candidate;
}

function commandOf(candidate: Candidate): string {
  const exports = Object.entries(candidate.env ?? {}).map(
    ([name, value]) => `export ${name}=${quote(value)}; `,
  );
  return exports.join("") + candidate.cmd;
}

type Select = NonNullable<ExploreOptions["select"]>;

async function pick(
  outcomes: readonly BranchOutcome[],
  select: Select,
  requireSuccess: boolean,
): Promise<BranchOutcome> {
  const viable = outcomes.filter((outcome) => outcome.ok || !requireSuccess).sort(better(select));
  const [first] = viable;
  if (first === undefined) {
    const found = outcomes.map(({ label, error, exitCode }) => `${label}: ${error ?? `exit ${exitCode}`}`);
    throw new ExploreError(`none of ${outcomes.length} branches was viable (${found.join("; ")})`);
  }
  if (typeof select === "string") return first;
  const picked = await select([...viable]);
  if (!viable.includes(picked)) {
    throw new ExploreError("select must return one of the outcomes it was given");
  }
  return picked;
}

/** Best first; equals by the faster one, then by label so that two runs agree. */
function better(select: Select): (a: BranchOutcome, b: BranchOutcome) => number {
  const sign = select === "min" ? 1 : -1;
  return (a, b) =>
    sign * (a.score - b.score) ||
    a.durationMs - b.durationMs ||
    (a.label < b.label ? -1 : a.label > b.label ? 1 : 0);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error);
}
