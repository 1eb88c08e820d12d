/** In place of local.ts in browsers, which have no local files to copy. */

import { PandaStackError } from "./errors.js";

/** Rejects: see above. */
export async function read(_path: string): Promise<AsyncIterable<Uint8Array>> {
  throw new PandaStackError("browsers have no local files: use write with a Blob");
}

/** Rejects: see above. */
export async function write(
  _path: string,
  _remotePath: string,
  _content: AsyncIterable<Uint8Array>,
): Promise<void> {
  throw new PandaStackError("browsers have no local files: use readBytes or readStream");
}
