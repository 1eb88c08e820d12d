// Runs in a folder with the published e2b: what an agent does, by the client's own words.
import assert from 'node:assert/strict'
import { load, run } from './capability.mjs'

const { CommandExitError, NotFoundError, Sandbox } = await load('e2b')

const box = await Sandbox.create({ timeoutMs: 600_000, metadata: { 'a b': 'c&d=ü' }, envs: { INNER: 'made' } })

async function commands() {
  const done = await box.commands.run('echo hello $INNER; echo ünï >&2')
  assert.deepEqual([done.stdout, done.stderr, done.exitCode], ['hello made\n', 'ünï\n', 0])
  await assert.rejects(box.commands.run('exit 3'), CommandExitError)
}

async function background() {
  const sleeper = await box.commands.run('sleep 600', { background: true })
  assert.ok((await box.commands.list()).some((process) => process.pid === sleeper.pid))
  assert.ok(await box.commands.kill(sleeper.pid))
}

async function files() {
  await box.files.write('/home/user/deep/ü.txt', 'héllo\r\n')
  assert.equal(await box.files.read('/home/user/deep/ü.txt'), 'héllo\r\n')
  assert.deepEqual((await box.files.list('/home/user/deep')).map((entry) => entry.name), ['ü.txt'])
  await assert.rejects(box.files.read('/nope'), NotFoundError)
}

async function watching() {
  const events = []
  await box.files.makeDir('/home/user/watched')
  const watcher = await box.files.watchDir('/home/user/watched', (event) => events.push(event.name))
  await box.files.write('/home/user/watched/new.txt', 'x')
  for (let i = 0; i < 50 && !events.includes('new.txt'); i++) await new Promise((done) => setTimeout(done, 100))
  assert.ok(events.includes('new.txt'))
  await watcher.stop()
}

async function looking() {
  assert.ok(await box.isRunning())
  assert.equal((await box.getInfo()).metadata['a b'], 'c&d=ü')
  await box.setTimeout(900_000)
}

async function sleeping() {
  await box.files.write('/home/user/kept.txt', 'kept')
  await box.pause()
  assert.equal(await box.isRunning(), false)
  const again = await Sandbox.connect(box.sandboxId)
  assert.equal((await again.commands.run('cat /home/user/kept.txt')).stdout, 'kept')
}

async function ending() {
  assert.ok(await box.kill())
  assert.equal(await box.isRunning(), false)
}

try {
  await run([commands, background, files, watching, looking, sleeping, ending])
} finally {
  await Sandbox.kill(box.sandboxId)
}
process.exit(0)
