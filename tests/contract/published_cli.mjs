// Runs in a folder with the published @pandastack/sdk: every command of its `pandastack` that we serve, as a person runs it.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { run as tryAll } from './capability.mjs'

const program = path.join(process.cwd(), 'node_modules', '.bin', 'pandastack')
const { env } = process

const PIPED = 'printf %s "$0" | "$@"'

/** What one run printed, and its exit status; `until` ends it early, `piped` comes through a real pipe. */
function run(words, { input, piped, until, extra = {} } = {}) {
  const [command, ...rest] = piped === undefined ? [program, ...words] : ['sh', '-c', PIPED, piped, program, ...words]
  const child = spawn(command, rest, { env: { ...env, ...extra } })
  const done = { stdout: '', stderr: '', status: null }
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${words}: too long; ${done.stdout}${done.stderr}`)), 30_000)
    for (const name of ['stdout', 'stderr']) {
      child[name].setEncoding('utf8').on('data', (text) => {
        done[name] += text
        if (until && done.stdout.includes(until)) child.kill()
      })
    }
    child.on('close', (status) => {
      clearTimeout(timer)
      resolve({ ...done, status })
    })
    child.stdin.on('error', () => undefined)
    if (input) input(child.stdin)
    else child.stdin.end()
  })
}

async function ok(...words) {
  const done = await run(words)
  assert.equal(done.status, 0, `${words}: ${done.stderr}`)
  return done.stdout
}

const json = async (...words) => JSON.parse(await ok(...words))

async function create(...words) {
  return (await json('sandbox', 'create', ...words)).id
}

async function account() {
  assert.equal((await json('me')).current_org, 'default')
  const made = await json('token', 'create', '--label', 'cli')
  assert.match(made.token, /^pds_/)
  assert.ok((await ok('token', 'list')).includes(made.prefix))
  const other = await run(['sandbox', 'list'], { extra: { PANDASTACK_API_KEY: made.token } })
  assert.deepEqual(JSON.parse(other.stdout), [])
  await ok('token', 'revoke', made.prefix)
  const refused = await run(['me'], { extra: { PANDASTACK_API_KEY: made.token } })
  assert.equal(refused.status, 1)
  assert.match(refused.stderr, /^error: /)
  assert.match(await ok('version'), /^pandastack 0\.9\.0/)
}

async function templates() {
  const names = (await json('template', 'list')).map((template) => template.name)
  for (const name of ['base', 'code-interpreter']) assert.ok(names.includes(name), names)
  assert.equal((await json('tpl', 'get', 'ubuntu-24.04')).name, 'base')
}

async function life() {
  const id = await create('--ttl', '600', '--metadata', 'a=b,c=d')
  assert.deepEqual((await json('sandbox', 'get', id)).metadata, { a: 'b', c: 'd' })
  assert.deepEqual((await json('sb', 'list')).map((each) => each.id), [id])
  await ok('sandbox', 'pause', id)
  assert.equal((await json('sandbox', 'get', id)).status, 'paused')
  await ok('sandbox', 'resume', id)
  await ok('sandbox', 'hibernate', id)
  assert.equal((await json('sandbox', 'get', id)).status, 'hibernated')
  await ok('sandbox', 'wake', id)
  await ok('sandbox', 'set-ttl', id, '--ttl', '700')
  await ok('sandbox', 'set-persistent', id, '--persistent', 'true')
  const { ttl_seconds, persistent } = await json('sandbox', 'lifecycle', id)
  assert.deepEqual([ttl_seconds, persistent], [700, true])
  assert.match(await ok('sandbox', 'delete', id), new RegExp(`deleted ${id}`))
  const gone = await run(['sandbox', 'get', id])
  assert.deepEqual([gone.status, gone.stderr.startsWith('error: ')], [1, true])
}

async function commands(id) {
  const done = await run(['sandbox', 'exec', id, '--timeout', '20', '--', 'echo ünï; echo err >&2; exit 3'])
  assert.deepEqual([done.stdout, done.stderr, done.status], ['ünï\n', 'err\n', 3])
  assert.equal(await ok('sandbox', 'run-code', id, '--language', 'python', '--', 'print(6 * 7)'), '42\n')
  assert.equal(await ok('sandbox', 'run-code', id, '--', 'echo $((6 * 7))'), '42\n')
  const late = await run(['sandbox', 'exec', id, '--timeout', '1', '--', 'sleep 30'])
  assert.equal(late.status, 1)
  assert.match(late.stderr, /timed out|timeout|deadline/)
}

async function logs(id) {
  await ok('sandbox', 'exec', id, '--', 'echo first')
  assert.ok((await ok('sandbox', 'logs', id, '--stream', 'stdout')).includes('first\n'))
  const following = run(['sandbox', 'logs', id, '--follow'], { until: 'second' })
  await ok('sandbox', 'exec', id, '--', 'sleep 1; echo second')
  assert.ok((await following).stdout.includes('second\n'))
}

async function files(id) {
  await ok('fs', 'write', id, '--path', '/tmp/a b', '--content', 'héllo')
  assert.equal((await ok('fs', 'read', id, '--path', '/tmp/a b')).trimEnd(), 'héllo')
  const piped = await run(['fs', 'write', id, '--path', '/tmp/in', '--stdin'], { piped: 'from stdin' })
  assert.equal(piped.status, 0, piped.stderr)
  assert.equal((await ok('fs', 'read', id, '--path', '/tmp/in')).trimEnd(), 'from stdin')
  await writeFile('up.txt', 'line\r\n'.repeat(50_000))
  await ok('fs', 'upload', id, '--local', 'up.txt', '--remote', '/tmp/up.txt')
  await ok('fs', 'download', id, '--remote', '/tmp/up.txt', '--local', 'down.txt')
  assert.equal(await readFile('down.txt', 'utf8'), 'line\r\n'.repeat(50_000))
}

async function terminal(id) {
  // The prompt is waited for, as by a person: what is typed before is echoed twice.
  const type = (stdin) => {
    setTimeout(() => stdin.write('stty size; echo "o""k"; exit\n'), 500)
  }
  const shown = await run(['sandbox', 'ssh', id], { input: type })
  assert.equal(shown.status, 0, shown.stderr)
  assert.match(shown.stdout, /24 80\s+ok/)
  const short = await run(['ssh', id], { input: (stdin) => stdin.write('exit\n') })
  assert.equal(short.status, 0, short.stderr)
  const unknown = await run(['sandbox', 'ssh', 'nope'])
  assert.deepEqual([unknown.status, unknown.stderr.includes('404')], [1, true])
}

async function ports(id) {
  assert.match(await ok('sandbox', 'preview-url', id, '--port', '8000'), new RegExp(`//8000-${id}\\.`))
  const urls = await json('sandbox', 'preview-urls', id)
  for (const [port, address] of Object.entries(urls)) assert.ok(address.includes(`//${port}-${id}.`), address)
}

async function snapshots(id) {
  const snapshot = await json('sandbox', 'snapshot', id)
  assert.ok((await json('snapshot', 'list', '--sandbox-id', id)).some((each) => each.id === snapshot.id))
  assert.equal((await json('snap', 'get', snapshot.id)).sandbox_id, id)
  const again = await create('--from-snapshot', snapshot.id)
  await ok('snapshot', 'delete', snapshot.id)
  await ok('sandbox', 'delete', again)
}

async function forks(id) {
  const child = await json('sandbox', 'fork', id, '--metadata', 'b=2')
  assert.notEqual(child.id, id)
  await ok('sandbox', 'delete', child.id)
  const branches = await json('sandbox', 'fork-tree', id, '--count', '2')
  assert.equal(branches.length, 2)
  await ok('sandbox', 'promote', branches[0].id)
  for (const branch of branches) await ok('sandbox', 'delete', branch.id)
}

async function unbuilt() {
  for (const words of [['db', 'list'], ['fn', 'list'], ['sched', 'list'], ['app', 'list'], ['tpl', 'builds']]) {
    const done = await run(words)
    assert.deepEqual([done.status, done.stderr.includes('not built')], [1, true], `${words}: ${done.stderr}`)
  }
}

/** The same check, with a sandbox of its own. */
function sandboxed(check) {
  const inner = async () => {
    const id = await create('--template', 'base')
    try {
      await check(id)
    } finally {
      await ok('sandbox', 'delete', id)
    }
  }
  return Object.defineProperty(inner, 'name', { value: check.name })
}

const own = [commands, logs, files, terminal, ports, snapshots, forks].map(sandboxed)
await tryAll([account, templates, life, ...own, unbuilt])
process.exit(0)
