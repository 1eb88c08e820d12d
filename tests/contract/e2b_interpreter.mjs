// Runs in a folder with the published @e2b/code-interpreter: cells and all that comes of them.
import assert from 'node:assert/strict'
import { load, run } from './capability.mjs'

const { Sandbox, TimeoutError } = await load('@e2b/code-interpreter')

const box = await Sandbox.create({ timeoutMs: 600_000 })

async function cells() {
  assert.equal((await box.runCode('2 ** 10')).text, '1024')
  await box.runCode('x = 41')
  const streamed = []
  const done = await box.runCode("print('ünï'); import sys; print('err', file=sys.stderr); x + 1", {
    onStdout: (message) => streamed.push(message.line),
  })
  assert.deepEqual([done.text, done.logs.stdout.join(''), done.logs.stderr.join('')], ['42', 'ünï\n', 'err\n'])
  assert.equal(streamed.join(''), 'ünï\n')
  assert.equal((await box.runCode("import os; os.environ['Q']", { envs: { Q: 'value' } })).text, "'value'")
}

async function errors() {
  const { error } = await box.runCode('1 / 0')
  assert.equal(error.name, 'ZeroDivisionError')
  assert.ok(error.value.includes('division'))
  assert.ok(error.traceback.includes('ZeroDivisionError'))
}

async function pictures() {
  const done = await box.runCode('import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()')
  const { png } = done.results.find((result) => result.png)
  assert.deepEqual([...Buffer.from(png, 'base64').subarray(1, 4)], [...Buffer.from('PNG')])
}

async function charts() {
  const done = await box.runCode("plt.bar(['a', 'b'], [3, 4])\nplt.title('T')\nplt.show()")
  const { chart } = done.results.find((result) => result.chart)
  assert.deepEqual([chart.type, chart.title], ['bar', 'T'])
  assert.deepEqual(chart.elements.map(({ label, value }) => [label, Number(value)]), [['a', 3], ['b', 4]])
}

async function tables() {
  const done = await box.runCode("import pandas\npandas.DataFrame({'a': [1, 2]})")
  assert.ok(done.results[0].html.includes('<table'))
  assert.deepEqual(done.results[0].data, { a: [1, 2] })
}

async function contexts() {
  const context = await box.createCodeContext()
  assert.equal((await box.runCode("'x' in globals()", { context })).text, 'False')
  assert.equal((await box.runCode("'x' in globals()")).text, 'True')
  assert.ok((await box.listCodeContexts()).some((each) => each.id === context.id))
  await box.restartCodeContext(context)
  await box.removeCodeContext(context)
  assert.ok(!(await box.listCodeContexts()).some((each) => each.id === context.id))
}

async function stopping() {
  await box.runCode('kept = 1')
  await assert.rejects(box.runCode('import time; time.sleep(60)', { timeoutMs: 2000 }), TimeoutError)
  assert.equal((await box.runCode('kept')).text, '1')
}

async function languages() {
  assert.equal((await box.runCode('echo $((6 * 7))', { language: 'bash' })).logs.stdout.join(''), '42\n')
  const script = '[20, 22].reduce((a, b) => a + b)'
  assert.equal((await box.runCode(script, { language: 'javascript' })).text, '42')
}

try {
  await run([cells, errors, pictures, charts, tables, contexts, stopping, languages])
} finally {
  await box.kill()
}
process.exit(0)
