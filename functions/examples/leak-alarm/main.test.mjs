// node --test, in this folder.
import assert from "node:assert/strict";
import test from "node:test";
import { handle } from "./main.mjs";

function context() {
  const kept = new Map();
  return { state: { get: async (k) => kept.get(k), put: async (k, v) => void kept.set(k, v), delete: async (k) => void kept.delete(k) } };
}
const reading = (percent) => ({ subject: "greenhouse/north/moisture", json: () => ({ percent }) });

test("an alarm is raised once and cleared once", async () => {
  const ctx = context();
  const results = [];
  for (const percent of [10, 90, 95, 20, 20]) results.push(await handle(reading(percent), ctx));
  assert.deepEqual(results, [undefined, { zone: "north", leak: true }, undefined, { zone: "north", leak: false }, undefined]);
});
