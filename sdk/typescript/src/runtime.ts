/** What differs between Node, Bun, Deno and browsers, and small helpers over the web platform. */

/** `Symbol.asyncDispose`, also where the runtime is older than the symbol. */
export const asyncDispose: typeof Symbol.asyncDispose = (Symbol.asyncDispose ??
  Symbol.for("Symbol.asyncDispose")) as typeof Symbol.asyncDispose;

/** Whether this is Node, Bun or Deno, and not a browser. Bundlers' stand-ins for `process` have no versions. */
export function isServerSide(): boolean {
  return typeof globalThis.process?.versions?.node === "string" || "Deno" in globalThis;
}

/** An environment variable, trimmed; absent when empty, and where there is no environment or no leave to read it. */
export function env(name: string): string | undefined {
  try {
    return globalThis.process?.env?.[name]?.trim() || undefined;
  } catch {
    return undefined;
  }
}

/**
 * Waits, at most until `signal` is aborted.
 *
 * @throws the signal's reason.
 */
export function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const aborted = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener("abort", aborted, { once: true });
  });
}

/** `work` of every item, at most `limit` at once, results in order. The first failure ends it, once all rest. */
export async function parallel<A, B>(
  items: readonly A[],
  limit: number,
  work: (item: A) => Promise<B>,
): Promise<B[]> {
  const results: B[] = new Array(items.length);
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (!failed && next < items.length) {
      const index = next++;
      try {
        results[index] = await work(items[index] as A);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: Math.min(limit, items.length) }, worker));
  const failure = ends.find((end) => end.status === "rejected");
  if (failure) throw failure.reason;
  return results;
}

/** A piece of memory as it is, without a copy. */
export function asBytes(piece: Uint8Array | ArrayBuffer): Uint8Array {
  return piece instanceof Uint8Array ? piece : new Uint8Array(piece);
}

/** All of `pieces` in one. */
export function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
