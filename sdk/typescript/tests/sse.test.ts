/** The event parser: wherever the chunks are cut, the events are the same. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { SseDecoder, type SseEvent } from "../src/sse.js";

function decode(chunks: Iterable<Uint8Array>): SseEvent[] {
  const decoder = new SseDecoder();
  return [...chunks].flatMap((chunk) => [...decoder.feed(chunk)]);
}

const EVENTS = [
  { event: "stdout", data: '{"chunk":"grün 🐼\u2028\u0085 中"}' },
  { event: "message", data: "one\ntwo" },
  { event: "exit", data: '{"exit_code":0}' },
];

for (const [name, end] of [
  ["LF", "\n"],
  ["CRLF", "\r\n"],
  ["CR", "\r"],
] as const) {
  const lines = [
    ": ping",
    "",
    "event: stdout",
    `data: ${EVENTS[0]?.data}`,
    "",
    "id: 7",
    "data: one",
    "data:two",
    "",
    "event: exit",
    'data: {"exit_code":0}',
    "",
    "event: never finished",
    "data: x",
  ];
  const bytes = new TextEncoder().encode(lines.join(end));

  test(`${name}: cut at any byte, the events are the same`, () => {
    for (let cut = 0; cut <= bytes.length; cut++) {
      assert.deepEqual(decode([bytes.subarray(0, cut), bytes.subarray(cut)]), EVENTS, `cut at ${cut}`);
    }
  });

  test(`${name}: byte by byte`, () => {
    const single = Array.from(bytes, (byte) => Uint8Array.of(byte));
    assert.deepEqual(decode(single), EVENTS);
  });
}

test("an event without data is none, and an empty one is dropped", () => {
  assert.deepEqual(decode([new TextEncoder().encode("event: open\n\n\n\ndata: x\n\n")]), [
    { event: "message", data: "x" },
  ]);
});

test("an event without end is refused before memory is full", () => {
  const decoder = new SseDecoder();
  const chunk = new Uint8Array(1024 * 1024).fill(97);
  assert.throws(() => {
    for (let i = 0; i < 70; i++) [...decoder.feed(chunk)];
  }, RangeError);
});
