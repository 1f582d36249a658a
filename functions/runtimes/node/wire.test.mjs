// Tests of the node shim: node --test, in this folder. What a function sees of
// its node is tested by functions/functionstest.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { decode, encode } from "./wire.mjs";
import { Context, Event, RetryAfter, payload } from "./sdk.mjs";

// From RFC 8949, appendix A.
const examples = {
  "00": 0,
  17: 23,
  1818: 24,
  "1903e8": 1000,
  "1a000f4240": 1000000,
  "1b000000e8d4a51000": 1000000000000,
  20: -1,
  "3903e7": -1000,
  f4: false,
  f5: true,
  f6: null,
  40: Buffer.alloc(0),
  4401020304: Buffer.of(1, 2, 3, 4),
  60: "",
  "62c3bc": "ü",
  "64f0908591": "\u{10151}",
  80: [],
  "83010203": [1, 2, 3],
  a0: {},
  a26161016162820203: { a: 1, b: [2, 3] },
};

test("codec: examples", () => {
  for (const [hex, value] of Object.entries(examples)) {
    assert.deepEqual(decode(Buffer.from(hex, "hex")), value, hex);
    assert.equal(encode(value).toString("hex"), hex);
  }
  assert.equal(encode({ b: 1, aa: 2, a: 3, left: undefined }).toString("hex"), "a361610361620162616102");
});

test("codec: what is refused", () => {
  for (const hex of ["", "18", "44010203", "9f", "8201", "a161", "c100", "f90000", "ff", "0000"]) {
    assert.throws(() => decode(Buffer.from(hex, "hex")), undefined, hex);
  }
  for (const value of [1.5, 2 ** 60, Symbol("x"), 1n]) {
    assert.throws(() => encode(value), TypeError);
  }
});

test("codec: an attribute named __proto__ is an attribute", () => {
  const map = decode(Buffer.from("a1695f5f70726f746f5f5f6178", "hex"));
  assert.deepEqual(Object.keys(map), ["__proto__"]);
  assert.equal(Object.getPrototypeOf(map), Object.prototype);
});

test("payload", () => {
  const circular = {};
  circular.self = circular;
  assert.deepEqual(payload("ü", "result"), [Buffer.from("ü"), "text/plain; charset=utf-8"]);
  assert.deepEqual(payload({ a: [1] }, "result"), [Buffer.from('{"a":[1]}'), "application/json"]);
  assert.deepEqual(payload(false, "result"), [Buffer.from("false"), "application/json"]);
  assert.deepEqual(Buffer.from(payload(new Uint16Array([1, 2]).subarray(1), "result")[0]), Buffer.of(2, 0));
  for (const [value, type] of [
    [10n, "BigInt"],
    [circular, "Object"],
    [() => 1, "Function"],
    [Symbol("x"), "Symbol"],
  ]) {
    assert.throws(() => payload(value, "result"), new RegExp(`result of type ${type} cannot be sent`));
  }
});

test("event", () => {
  const event = new Event(Buffer.from('{"a":"ü"}'), { subject: "x", time: "2026-02-03T04:05:06.123456789Z", mqttqos: "1" });
  assert.deepEqual(event.json(), { a: "ü" });
  assert.equal(event.time.toISOString(), "2026-02-03T04:05:06.123Z");
  assert.deepEqual(event.extensions, { mqttqos: "1" });
  assert.equal(new Event().time, undefined);
  assert.throws(() => new Event("no json").json(), SyntaxError);
});

test("reject and retry", () => {
  const ctx = new Context({}, {});
  const rejected = ctx.reject("no zone");
  assert.equal(String(rejected), "Rejected: no zone");
  assert.ok(rejected instanceof Error && rejected.stack.startsWith("Rejected: no zone") && !("cause" in rejected));
  assert.equal(ctx.reject("").message, "the handler rejected the event");
  assert.throws(() => ctx.reject(new Error("no zone")), /the reason is a string, not object/);
  const cause = new Error("it broke");
  assert.equal(ctx.reject("x", { cause }).cause, cause);
  assert.equal(ctx.retry("x", { after: 1, cause }).cause, cause);
  assert.equal(String(ctx.retry("busy", { after: 30 })), "RetryAfter: busy");
  for (const [after, ms] of [[0, 0], [0.0001, 1], [0.001, 1], [1.0015, 1002], [2.3, 2300], [30, 30000], [86400, 86400000]]) {
    const e = ctx.retry("busy", { after });
    assert.deepEqual([e.after, RetryAfter.milliseconds(e)], [after, ms]);
  }
  for (const after of [-1, -0.001, 86400.001, NaN, Infinity, 2 ** 70]) {
    assert.throws(() => ctx.retry("busy", { after }), { name: "RangeError", message: `after is a number of seconds from 0 to 86400 (24 h), not ${after}` });
  }
  for (const after of ["30", null, undefined, true, 30n, {}]) {
    assert.throws(() => ctx.retry("busy", { after }), { name: "TypeError", message: /from 0 to 86400 \(24 h\), not / });
  }
});

/** Starts an instance and returns its first frame. */
async function load(files, handler = "main:handle") {
  const app = fs.mkdtempSync(path.join(os.tmpdir(), "edgefn-"));
  try {
    for (const [name, text] of Object.entries(files)) {
      fs.mkdirSync(path.dirname(path.join(app, name)), { recursive: true });
      fs.writeFileSync(path.join(app, name), text);
    }
    // node makes a socket of each pipe that it gives to a child.
    const child = spawn(process.execPath, [fileURLToPath(new URL("main.mjs", import.meta.url)), handler], {
      cwd: app,
      stdio: ["ignore", "ignore", "inherit", "pipe"],
    });
    const exited = new Promise((resume) => child.on("exit", resume));
    const frame = await new Promise((resolve, reject) => {
      let all = Buffer.alloc(0);
      child.stdio[3].on("data", (chunk) => {
        all = Buffer.concat([all, chunk]);
        if (all.length >= 4 && all.length >= 4 + all.readUInt32BE(0)) {
          resolve(decode(all.subarray(4, 4 + all.readUInt32BE(0))));
        }
      });
      child.on("exit", (code) => reject(new Error(`exited with ${code}`)));
    });
    child.stdio[3].destroy();
    await exited;
    return frame;
  } finally {
    fs.rmSync(app, { recursive: true });
  }
}

test("handlers that load", async () => {
  const esm = "export function handle() {}";
  const cjs = "exports.handle = () => {}";
  for (const [files, handler] of [
    [{ "main.mjs": esm }],
    [{ "main.cjs": cjs }],
    [{ "main.js": cjs }],
    [{ "main.js": esm, "package.json": '{"type":"module"}' }],
    [{ "lib/main/index.js": "module.exports = { fan: { handle() {} } }" }, "lib/main:fan.handle"],
    [{ "a.b.mjs": esm }, "a.b:handle"],
    [{ "main.mjs": "export default { handle() {} }" }],
    [{ "main.mjs": "import { x } from 'dep'; export const handle = x", "node_modules/dep/index.js": "exports.x = () => {}" }],
  ]) {
    const [kind, , body] = await load(files, handler);
    assert.equal(kind, "hello", JSON.stringify([files, body]));
    assert.equal(body.runtime, `node ${process.versions.node}`);
  }
});

test("handlers that do not load", async () => {
  for (const [files, handler, ...says] of [
    [{ "main.mjs": "" }, "mian:handle", "module mian of handler is not there", "did you mean main?"],
    [{ "main.mjs": "export function handel() {}" }, "main:handle", "not exported by", "it exports handel", "did you mean handel?"],
    [{ "main.mjs": "export const handle = 1" }, "main:handle", "is not a function but number"],
    [{ "main.mjs": "import 'leftpad'" }, "main:handle", "leftpad", "package.json"],
    [{ "main.cjs": "require('leftpad')" }, "main:handle", "leftpad", "package.json"],
    [{ "main.cjs": "export const handle = 1" }, "main:handle", "SyntaxError", "name it .mjs"],
    [{ "main.mjs": "export const handle = (" }, "main:handle", "SyntaxError"],
    [{ "main.mjs": "throw 'text'" }, "main:handle", "thrown: text"],
    [{ "main.mjs": "await Promise.reject(new Error('no network'))" }, "main:handle", "Error: no network"],
    [{ "main.mjs": "setTimeout(() => { throw new Error('later') }, 1); await new Promise(() => {})" }, "main:handle", "Error: later"],
  ]) {
    const [kind, , body] = await load(files, handler);
    assert.deepEqual([kind, body.kind], ["failure", "load"], JSON.stringify([files, body]));
    for (const w of says) {
      assert.ok(body.message.includes(w), `${body.message} does not say ${w}`);
    }
    assert.doesNotMatch(body.detail, /node:internal/);
  }
});
