// Runs in a folder with the published e2b: what an agent does, by the client's own words.
import assert from 'node:assert/strict'
import { Absent, load, run } from './capability.mjs'

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

async function terminal() {
  let seen = ''
  const decoder = new TextDecoder()
  const onData = (data) => {
    seen += decoder.decode(data, { stream: true })
  }
  const keyed = (pid, text) => box.pty.sendInput(pid, new TextEncoder().encode(text))
  const made = await box.pty.create({ cols: 80, rows: 24, onData })
  await box.pty.resize(made.pid, { cols: 100, rows: 40 })
  await keyed(made.pid, 'stty size; kept=ünï\n')
  for (let i = 0; i < 100 && !seen.includes('40 100'); i++) await new Promise((done) => setTimeout(done, 100))
  assert.match(seen, /40 100/)
  // It outlives the one who made it, and goes on for who comes after.
  await made.disconnect()
  seen = ''
  const again = await box.pty.connect(made.pid, { onData })
  await keyed(made.pid, 'echo "<$kept>"; exit\n')
  assert.equal((await again.wait()).exitCode, 0)
  assert.match(seen, /<ünï>/)
  const doomed = await box.pty.create({ cols: 80, rows: 24, onData })
  assert.ok(await box.pty.kill(doomed.pid))
  await assert.rejects(doomed.wait(), CommandExitError)
  assert.equal(await box.pty.kill(doomed.pid), false)
}

/** Everything in JavaScript is; here, at once. */
async function asynchronous() {
  const numbers = [...Array(8).keys()]
  const ran = await Promise.all(numbers.map((number) => box.commands.run(`echo ${number}`)))
  assert.deepEqual(ran.map((done) => done.stdout), numbers.map((number) => `${number}\n`))
}

/** All of it under a domain, and by no address. */
async function names() {
  assert.ok(!process.env.E2B_SANDBOX_URL)
  assert.equal(box.getHost(3000), `3000-${box.sandboxId}.${process.env.E2B_DOMAIN}`)
}

async function looking() {
  assert.ok(await box.isRunning())
  assert.equal((await box.getInfo()).metadata['a b'], 'c&d=ü')
  const before = (await box.getInfo()).endAt
  await box.setTimeout(900_000)
  assert.ok((await box.getInfo()).endAt > before)
  const point = (await box.getMetrics()).at(-1)
  assert.ok(point.memUsed > 0 && point.memUsed < point.memTotal)
}

async function pages() {
  const metadata = { 'two of': box.sandboxId }
  const made = [await Sandbox.create({ metadata }), await Sandbox.create({ metadata })]
  try {
    const paginator = Sandbox.list({ query: { metadata }, limit: 1 })
    const seen = []
    while (paginator.hasNext) seen.push(...(await paginator.nextItems()).map((each) => each.sandboxId))
    assert.deepEqual(seen.sort(), made.map((each) => each.sandboxId).sort())
  } finally {
    for (const each of made) await each.kill()
  }
}

/** What a server in the sandbox says; where there is one address the sandbox is named by header, since fetch sets no Host. */
async function served(sandbox, port, headers = {}) {
  const address = process.env.E2B_SANDBOX_URL
  const named = address && { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) }
  for (let i = 0; i < 100; i++) {
    const answer = await fetch(address ?? `https://${sandbox.getHost(port)}`, { headers: { ...named, ...headers } })
    const said = await answer.text()
    if (!said.includes('port is not open')) return said
    await new Promise((done) => setTimeout(done, 200))
  }
  throw new Error('the port never opened')
}

async function ports() {
  await box.commands.run('python3 -m http.server 3000', { background: true })
  assert.match(await served(box, 3000), /Directory listing/)
  assert.match(box.getHost(3000), new RegExp(`^3000-${box.sandboxId}\\.`))
}

async function timeouts() {
  await box.setTimeout(300_000)
  const ends = (await box.getInfo()).endAt.getTime()
  await box.commands.run('true')
  await Sandbox.connect(box.sandboxId, { timeoutMs: 60_000 })
  assert.equal((await box.getInfo()).endAt.getTime(), ends)
  await Sandbox.connect(box.sandboxId, { timeoutMs: 900_000 })
  assert.ok((await box.getInfo()).endAt.getTime() > ends)
}

async function resuming() {
  const sleeper = await Sandbox.create({ lifecycle: { onTimeout: 'pause', autoResume: false } })
  try {
    assert.deepEqual((await sleeper.getInfo()).lifecycle, { onTimeout: 'pause', autoResume: false })
    await sleeper.pause()
    await assert.rejects(sleeper.commands.run('true'), { name: 'SandboxNotFoundError' })
    const again = await Sandbox.connect(sleeper.sandboxId)
    assert.equal((await again.commands.run('echo awake')).stdout, 'awake\n')
  } finally {
    await sleeper.kill()
  }
}

async function forks() {
  if (!box.fork) throw new Absent()
  await box.files.write('forked.txt', 'before')
  const children = await box.fork({ count: 2 })
  try {
    await box.files.write('forked.txt', 'after')
    for (const child of children) assert.equal(await child.files.read('forked.txt'), 'before')
  } finally {
    for (const child of children) await child.kill()
  }
}

async function snapshots() {
  await box.files.write('saved.txt', 'saved')
  const taken = await box.createSnapshot({ name: `of-${box.sandboxId}` })
  try {
    await box.files.write('saved.txt', 'changed')
    assert.ok((await box.listSnapshots().nextItems()).some((each) => each.snapshotId === taken.snapshotId))
    for (const template of [taken.snapshotId, ...taken.names]) {
      const made = await Sandbox.create(template)
      assert.equal(await made.files.read('saved.txt'), 'saved')
      await made.kill()
    }
  } finally {
    assert.ok(await Sandbox.deleteSnapshot(taken.snapshotId))
  }
  assert.equal(await Sandbox.deleteSnapshot(taken.snapshotId), false)
}

const OUTSIDE = `python3 -c 'import socket; socket.create_connection(("1.1.1.1", 53), 2)'`

async function network() {
  const walled = await Sandbox.create({ network: { denyOut: ['0.0.0.0/0'], allowOut: ['192.0.2.0/24'] } })
  try {
    assert.deepEqual((await walled.getInfo()).network.denyOut, ['0.0.0.0/0'])
    await assert.rejects(walled.commands.run(OUTSIDE), CommandExitError)
    await walled.updateNetwork({ denyOut: ['198.51.100.7'] })
    assert.deepEqual((await walled.getInfo()).network.denyOut, ['198.51.100.7'])
  } finally {
    await walled.kill()
  }
  await assert.rejects(Sandbox.create({ network: { allowOut: ['example.com'], denyOut: ['0.0.0.0/0'] } }), /domain names/)
}

async function traffic() {
  const closed = await Sandbox.create({ network: { allowPublicTraffic: false } })
  try {
    await closed.commands.run('python3 -m http.server 3000', { background: true })
    assert.match(await served(closed, 3000), /e2b-traffic-access-token/)
    const headers = { 'e2b-traffic-access-token': closed.trafficAccessToken }
    assert.match(await served(closed, 3000, headers), /Directory listing/)
  } finally {
    await closed.kill()
  }
}

async function refused() {
  await assert.rejects(Sandbox.create({ volumeMounts: { '/data': 'volume' } }), /not supported yet/)
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
  await run([
    ...[commands, background, files, watching, terminal, looking, pages, ports, timeouts, sleeping],
    ...[resuming, forks, snapshots, network, traffic, asynchronous, refused],
    ...(process.env.E2B_DOMAIN ? [names] : []),
    ending,
  ])
} finally {
  await Sandbox.kill(box.sandboxId)
}
process.exit(0)
