/** Local files of Node, Bun and Deno, for `upload` and `download`. Bundles for browsers have local-browser.ts here. */

import { mkdtemp, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

const CHUNK_BYTES = 1024 * 1024;

/**
 * The content of a local file; no more than it holds now, though it may be growing. Rejects when there is none; the
 * file is opened when its first piece is read.
 */
export async function read(path: string): Promise<AsyncIterable<Uint8Array>> {
  const { size } = await stat(path);
  return pieces(path, size);
}

async function* pieces(path: string, size: number): AsyncGenerator<Uint8Array, void, undefined> {
  const file = await open(path, "r");
  try {
    for (let left = size; left > 0;) {
      const buffer = new Uint8Array(Math.min(CHUNK_BYTES, left));
      const { bytesRead } = await file.read(buffer, 0, buffer.length);
      if (bytesRead === 0) return;
      left -= bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/**
 * Writes `content` to the file `path`, or under the name of `remotePath` into the directory `path`. It is written
 * beside its place and moved there when it is whole.
 */
export async function write(
  path: string,
  remotePath: string,
  content: AsyncIterable<Uint8Array>,
): Promise<void> {
  const isDirectory = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const target = resolve(isDirectory ? join(path, basename(remotePath)) : path);
  const staging = await mkdtemp(join(dirname(target), ".pandastack-"));
  try {
    const staged = join(staging, "file");
    const file = await open(staged, "wx");
    try {
      for await (const piece of content) await file.writeFile(piece);
    } finally {
      await file.close();
    }
    await rename(staged, target);
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}
