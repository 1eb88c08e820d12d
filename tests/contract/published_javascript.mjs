// Runs in a folder with the published @pandastack/sdk: everything its library can do that we have, by its own words.
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { load, run } from './capability.mjs'

const { Client, Sandbox, ...published } = await load('@pandastack/sdk')
const { AuthError, BadRequestError, CommandError, NotFoundError, SandboxTimeout, ServerError } = published

const { PANDASTACK_API: url, PANDASTACK_API_KEY: key } = process.env
const client = new Client()

/** `work` rejects with exactly `kind`, with all `parts` in the message. */
async function fails(kind, work, ...parts) {
  const error = await work().then(() => assert.fail(`no ${kind.name}`), (error) => error)
  assert.equal(error.constructor, kind, error)
  for (const part of parts) assert.ok(error.message.includes(part), error.message)
}

async function gone(sandbox) {
  await sandbox.kill()
  await fails(NotFoundError, () => client.sandboxes.get(sandbox.id))
}

async function all(source) {
  const items = []
  for await (const item of source) items.push(item)
  return items
}

async function account() {
  assert.equal((await client.me()).current_org, 'default')
  const made = await client.tokens.create('ci')
  assert.match(made.token, /^pds_/)
  assert.ok((await client.tokens.list()).some((token) => token.prefix === made.prefix && token.label === 'ci'))
  const other = new Client({ apiUrl: url, apiKey: made.token })
  assert.deepEqual(await other.sandboxes.list(), [])
  await client.tokens.revoke(made.prefix)
  await fails(AuthError, () => other.sandboxes.list())
  await fails(AuthError, () => new Client({ apiUrl: url, apiKey: 'pds_wrong' }).me())
}

async function templates() {
  const listed = await client.templates.list()
  assert.ok(Array.isArray(listed)) // the client passes the body on as it is
  const names = listed.map((template) => template.name)
  for (const name of ['base', 'code-interpreter']) assert.ok(names.includes(name), names)
  assert.equal((await client.templates.get('ubuntu-24.04')).name, 'base')
  await fails(NotFoundError, () => client.templates.get('nope'))
}

async function life() {
  const sandbox = await client.sandboxes.create({ ttlSeconds: 600, metadata: { a: 'b' }, cpu: 2, memoryMb: 1 })
  assert.deepEqual([sandbox.template, sandbox.status, sandbox.info.metadata.a], ['base', 'running', 'b'])
  assert.ok(sandbox.info.boot_ms > 0)
  assert.deepEqual((await client.sandboxes.list()).map((each) => each.id), [sandbox.id])
  const config = { apiUrl: url, apiKey: key }
  assert.deepEqual((await Sandbox.list(config)).map((each) => each.id), [sandbox.id])
  await sandbox.pause()
  assert.equal((await client.sandboxes.get(sandbox.id)).status, 'paused')
  await fails(BadRequestError, () => sandbox.exec('true'), 'paused')
  await sandbox.resume()
  assert.equal((await Sandbox.get(sandbox.id, config)).status, 'running')
  assert.equal((await sandbox.setTtl(700)).ttl_seconds, 700)
  assert.equal((await sandbox.setPersistent(true)).persistent, true)
  const { ttl_seconds, persistent, idle_seconds } = await sandbox.lifecycle()
  assert.deepEqual([ttl_seconds, persistent, typeof idle_seconds], [700, true, 'number'])
  await gone(sandbox)
  await fails(NotFoundError, () => client.sandboxes.delete(sandbox.id))
  await fails(NotFoundError, () => Sandbox.create({ template: 'nope' }, config), 'unknown template')
  const tooLong = () => client.sandboxes.create({ ttlSeconds: 10 ** 9 })
  await fails(BadRequestError, tooLong, 'ttl_seconds exceeds tier maximum')
}

async function commands(sandbox) {
  const done = await sandbox.exec("python3 -c 'print(2 ** 10)'; echo ünï >&2; exit 3", { timeoutSeconds: 20 })
  assert.deepEqual([done.stdout, done.stderr, done.exitCode, done.exit_code], ['1024\n', 'ünï\n', 3, 3])
  assert.ok(done.duration_ms >= 0)
  assert.equal((await sandbox.commands.run('echo run')).stdout, 'run\n')
  await fails(CommandError, () => sandbox.exec('exit 4', { check: true }))
  await fails(SandboxTimeout, () => sandbox.exec('sleep 30', { timeoutSeconds: 1 }))
  assert.equal((await sandbox.runCode('print(6 * 7)', 'python')).stdout, '42\n')
  assert.equal((await sandbox.runCode('echo $((6 * 7))')).stdout, '42\n')
}

async function streams(sandbox) {
  const out = []
  const err = []
  const code = await sandbox.execStream("printf 'a\\u2028\\r\\nü\\n'; sleep 0.3; echo e >&2; exit 5", {
    onStdout: (chunk) => out.push(chunk),
    onStderr: (chunk) => err.push(chunk),
    timeoutSeconds: 20,
  })
  assert.deepEqual([code, out.join(''), err.join('')], [5, 'a\u2028\r\nü\n', 'e\n'])
  await fails(SandboxTimeout, () => sandbox.execStream('sleep 30', { timeoutSeconds: 1 }))
  let bytes = 0
  const many = { onStdout: (chunk) => (bytes += chunk.length) }
  assert.equal(await sandbox.execStream("head -c 5000000 /dev/zero | tr '\\0' x", many), 0)
  assert.equal(bytes, 5_000_000)
}

async function logs(sandbox) {
  await sandbox.exec('echo kept; echo also >&2')
  assert.ok((await all(sandbox.logs())).includes('kept'))
  const errors = await all(sandbox.logs({ stream: 'stderr' }))
  assert.deepEqual([errors.includes('kept'), errors.includes('also')], [false, true])
  const follow = sandbox.logs({ follow: true, stream: 'both' })
  for (;;) if ((await follow.next()).value === 'kept') break
  const running = sandbox.exec('sleep 0.3; echo later')
  for (;;) if ((await follow.next()).value === 'later') break
  await follow.return()
  await running
}

async function files(sandbox) {
  const { filesystem: fs } = sandbox
  const text = 'héllo 日本\r\n\0'
  const written = await fs.write('/tmp/deep/日本 語+.txt', text)
  assert.equal(written.bytes, new TextEncoder().encode(text).length)
  assert.equal(await fs.read('/tmp/deep/日本 語+.txt'), text)
  assert.deepEqual((await fs.list('/tmp/deep')).map((entry) => entry.name), ['日本 語+.txt'])
  const info = await fs.stat('/tmp/deep/日本 語+.txt')
  assert.deepEqual([info.size, info.is_dir], [written.bytes, false])
  assert.deepEqual([await fs.exists('/tmp/deep'), await fs.exists('/nope')], [true, false])
  const walked = await all(fs.walk('/tmp/deep'))
  assert.deepEqual(walked.map(({ files }) => files.length), [1])
  await writeFile('local.txt', text.repeat(100_000))
  await fs.upload('local.txt', '/tmp/deep/up.txt')
  await fs.download('/tmp/deep/up.txt', 'back.txt')
  assert.equal(await readFile('back.txt', 'utf8'), text.repeat(100_000))
  await fails(NotFoundError, () => fs.read('/nope'))
  await fails(BadRequestError, () => fs.read('/../etc/passwd'), '..')
}

async function sleep(sandbox) {
  await sandbox.filesystem.write('/tmp/x', '1')
  await sandbox.hibernate()
  assert.equal((await client.sandboxes.get(sandbox.id)).status, 'hibernated')
  assert.equal(await sandbox.filesystem.read('/tmp/x'), '1')
  await sandbox.hibernate()
  await sandbox.wake()
  await sandbox.wake()
  assert.equal((await sandbox.exec('echo awake')).stdout, 'awake\n')
}

async function snapshots(sandbox) {
  const snapshot = await sandbox.snapshot()
  assert.equal(snapshot.sandbox_id, sandbox.id)
  const [listed] = await client.snapshots.list({ sandboxId: sandbox.id })
  assert.deepEqual([listed.id, listed.template], [snapshot.id, 'base'])
  assert.equal((await client.snapshots.get(snapshot.id)).sandbox_id, sandbox.id)
  const again = await client.sandboxes.create({ fromSnapshot: snapshot.id })
  assert.equal(again.info.from_snapshot, snapshot.id)
  await client.snapshots.delete(snapshot.id)
  assert.equal((await again.exec('echo on')).stdout, 'on\n')
  await gone(again)
  await fails(NotFoundError, () => client.snapshots.get(snapshot.id))
}

async function forks(sandbox) {
  const child = await sandbox.fork({ metadata: { b: '2' } })
  assert.notEqual(child.id, sandbox.id)
  assert.deepEqual([child.template, child.info.metadata.b], ['base', '2'])
  assert.equal((await child.exec('echo forked')).stdout, 'forked\n')
  await gone(child)
  const branches = await sandbox.forkTree({ count: 3 })
  assert.equal(branches.length, 3)
  const done = await branches[1].promote({ cleanupSiblings: true })
  assert.equal(done.winner, branches[1].id)
  assert.deepEqual([...done.deleted].sort(), [branches[0].id, branches[2].id].sort())
  const scoreFn = (_, outcome) => outcome.stdoutTail.length
  const found = await sandbox.explore(['echo one', 'echo two; exit 3', 'echo three'], { scoreFn, captureFiles: false })
  assert.equal((await found.winner.exec('echo won')).stdout, 'won\n')
  // They come in the order in which they ended.
  assert.deepEqual(found.outcomes.map((outcome) => outcome.ok).sort(), [false, true, true])
  await gone(branches[1])
  await gone(found.winner)
}

async function unbuilt() {
  for (const call of [
    () => client.volumes.list(),
    () => client.databases.list(),
    () => client.functions.list(),
    () => client.schedules.list(),
    () => client.apps.list(),
    () => client.templates.builds(),
  ]) {
    await fails(ServerError, call, 'not built')
  }
}

/** The same check, with a sandbox of its own. */
function sandboxed(check) {
  const inner = async () => {
    const sandbox = await client.sandboxes.create({ template: 'base' })
    try {
      await check(sandbox)
    } finally {
      await gone(sandbox)
    }
  }
  return Object.defineProperty(inner, 'name', { value: check.name })
}

const own = [commands, streams, logs, files, sleep, snapshots, forks].map(sandboxed)
await run([account, templates, life, ...own, unbuilt])
process.exit(0)
