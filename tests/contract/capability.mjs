// capability.py for clients in JavaScript: `ok NAME`, `not ok NAME: REASON` or `absent NAME`, one line a capability.
import { createRequire } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const require = createRequire(path.join(process.cwd(), 'index.js'))

/** A package of the folder the program runs in, not of the one it lies in. */
export const load = (name) => import(pathToFileURL(require.resolve(name)).href)

/** The client, not the server, lacks the capability. */
export class Absent extends Error {}

/** Try every function of `checks` with `given`; its name is the capability's. */
export async function run(checks, ...given) {
  for (const check of checks) {
    try {
      await check(...given)
      console.log(`ok ${check.name}`)
    } catch (error) {
      if (error instanceof Absent) {
        console.log(`absent ${check.name}`)
        continue
      }
      console.error(error)
      const reason = `${error?.name}: ${error?.message}`.split(/\s+/).join(' ').slice(0, 300)
      console.log(`not ok ${check.name}: ${reason}`)
    }
  }
}
