// Runs in a folder with the published e2b: what an agent does, by the client's own words.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const require = createRequire(path.join(process.cwd(), 'index.js'))
const load = (name) => import(pathToFileURL(require.resolve(name)).href)
const client = await load('e2b')
const { NotFoundError, CommandExitError } = client
const Sandbox = client.Sandbox

const box = await Sandbox.create({ timeoutMs: 600_000, metadata: { 'a b': 'c&d=ü' }, envs: { INNER: 'made' } })
try {
  const done = await box.commands.run('echo hello $INNER; echo ünï >&2')
  assert.deepEqual([done.stdout, done.stderr, done.exitCode], ['hello made\n', 'ünï\n', 0])
  await assert.rejects(box.commands.run('exit 3'), CommandExitError)
  const sleeper = await box.commands.run('sleep 600', { background: true })
  assert.ok((await box.commands.list()).some((process) => process.pid === sleeper.pid))
  assert.ok(await box.commands.kill(sleeper.pid))
  console.log('ok commands')

  await box.files.write('/home/user/deep/ü.txt', 'héllo\r\n')
  assert.equal(await box.files.read('/home/user/deep/ü.txt'), 'héllo\r\n')
  assert.deepEqual((await box.files.list('/home/user/deep')).map((entry) => entry.name), ['ü.txt'])
  await assert.rejects(box.files.read('/nope'), NotFoundError)
  const events = []
  const watcher = await box.files.watchDir('/home/user/deep', (event) => events.push(event.name))
  await box.files.write('/home/user/deep/new.txt', 'x')
  for (let i = 0; i < 50 && !events.includes('new.txt'); i++) await new Promise((done) => setTimeout(done, 100))
  assert.ok(events.includes('new.txt'))
  await watcher.stop()
  console.log('ok files')

  assert.ok(await box.isRunning())
  assert.equal((await box.getInfo()).metadata['a b'], 'c&d=ü')
  await box.setTimeout(900_000)
  console.log('ok looking')

  await box.pause()
  assert.equal(await box.isRunning(), false)
  const again = await Sandbox.connect(box.sandboxId)
  assert.equal((await again.commands.run('cat /home/user/deep/new.txt')).stdout, 'x')
  console.log('ok sleeping')
} finally {
  await box.kill()
}
assert.equal(await box.isRunning(), false)
console.log('ok ending')

process.exit(0)
