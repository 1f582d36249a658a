// Does what the type of its event asks for.

import { spawn } from "node:child_process";
import fs from "node:fs";

let seen = 0;

function brokenPart() {
  throw new RangeError("it broke");
}

async function errorOf(call) {
  try {
    await call();
    return "none";
  } catch (e) {
    return e.message;
  }
}

export async function handle(event, ctx) {
  seen++;
  switch (event.type) {
    case "echo":
      return event.data;
    case "json": {
      const { a, b } = event.json();
      return { sum: a + b, text: "grüße" };
    }
    case "text":
      return "28.5 °C";
    case "nothing":
      return undefined;
    case "attributes":
      return {
        id: event.id,
        type: event.type,
        source: event.source,
        subject: event.subject,
        datacontenttype: event.datacontenttype,
        length: String(event.data.length),
        seconds: String(Math.floor(event.time.getTime() / 1000)),
        ...event.extensions,
      };
    case "context":
      return { invocation: ctx.invocation, function: ctx.function, version: ctx.version, attempt: ctx.attempt };
    case "deadline":
      return String(ctx.remainingMs());
    case "state": {
      const text = async (k) => ((await ctx.state.get(k)) ?? "").toString();
      const has = async (k) => (await ctx.state.get(k)) !== undefined;
      const saw = { there: await text("there"), absent: await text("absent"), has: await has("there"), hasnt: await has("absent") };
      ctx.state.put("a/1", "old");
      await Promise.all([ctx.state.put("a/1", Buffer.from("new")), ctx.state.put("a/2", ""), ctx.state.put("data", event.data)]);
      await ctx.state.delete("there");
      await ctx.state.delete("absent");
      if ((await ctx.state.get("a/2")).length !== 0) throw new Error("an empty value is not empty");
      saw.written = await text("a/1");
      saw.deleted = await has("there");
      saw.keys = await ctx.state.keys();
      saw.a = await ctx.state.keys("a/");
      for (const wrong of [1, null, {}, undefined]) {
        if (!(await errorOf(() => ctx.state.put("x", wrong))).includes("is bytes or a string")) return "a value of the wrong type was taken";
      }
      return saw;
    }
    case "state-and-raise":
      await ctx.state.put("half", "done");
      await ctx.publish("test/half", "done");
      throw new Error("no further");
    case "other-state": {
      const other = ctx.state.of("other");
      const n = await other.get("shared/in");
      await other.put("shared/out", String(Number(n) + 1));
      return n;
    }
    case "publish":
      await ctx.publish("test/text", "grüße");
      await ctx.publish("test/bytes", new Uint8Array([0xff, 1]), { qos: 0, retain: true });
      await ctx.publish("test/json", { on: true }, { qos: 2 });
      await ctx.publish("test/empty", "", { retain: true });
      return null;
    case "properties":
      await ctx.publish("test/properties", "x", {
        contentType: "text/plain",
        responseTopic: "test/answer",
        correlation: new Uint8Array([0xff, 1]),
        expiry: 1.5,
        user: [
          ["tag", "a"],
          ["tag", "b"],
          ["Größe", "ü=ü"],
        ],
      });
      await ctx.publish("test/one", "x", { user: { tag: "" } });
      return null;
    case "properties-refused":
      return {
        expiry: await errorOf(() => ctx.publish("test/wrong", "x", { expiry: -1 })),
        response: await errorOf(() => ctx.publish("test/wrong", "x", { responseTopic: "a/#" })),
        user: await errorOf(() => ctx.publish("test/wrong", "x", { user: { k: "\0" } })),
      };
    case "reply":
    case "reply-nobody":
    case "reply-ungranted":
      await ctx.reply({ ok: true }, { qos: 2, contentType: "application/json", expiry: 60, user: { tag: "a" } });
      return null;
    case "invoke":
      return [
        await ctx.invoke("sink", { n: 1 }),
        await ctx.invoke("sink", "x", { type: "test.special", subject: "über", id: "my-id" }),
      ];
    case "ungranted":
      return {
        get: await errorOf(() => ctx.state.of("secret").get("k")),
        put: await errorOf(() => ctx.state.of("secret").put("k", "v")),
        publish: await errorOf(() => ctx.publish("forbidden/topic", "x")),
        invoke: await errorOf(() => ctx.invoke("stranger", "x")),
      };
    case "ungranted-uncaught":
      await ctx.publish("forbidden/topic", "x");
      return "not refused";
    case "lines": {
      const relay = ctx.line("relay");
      relay.set(false);
      relay.set(true);
      const saw = { set: await relay.read() };
      relay.pulse(200);
      saw.pulsed = await relay.read();
      await relay.set(true);
      await relay.release();
      for (const wrong of ["off", 1, null, undefined]) {
        if (!(await errorOf(() => relay.set(wrong))).includes("true or false")) return `a line was set ${wrong}`;
      }
      for (const wrong of [0.2, "1s", NaN, undefined]) {
        if (!(await errorOf(() => relay.pulse(wrong))).includes("whole number")) return `a pulse took ${wrong} ms`;
      }
      for (const name of ["door", "hatch", "relay"]) saw[name] = await ctx.line(name).read();
      return saw;
    }
    case "lines-and-raise":
      await ctx.line("relay").set(true);
      throw new Error("no further");
    case "sensor":
      return ctx.sensor("greenhouse").read();
    case "device-refused":
      return {
        "ungranted-line": await errorOf(() => ctx.line("siren").set(true)),
        "ungranted-read": await errorOf(() => ctx.line("siren").read()),
        "ungranted-sensor": await errorOf(() => ctx.sensor("attic").read()),
        input: await errorOf(() => ctx.line("door").set(true)),
        "no-time": await errorOf(() => ctx.line("relay").pulse(0)),
        long: await errorOf(() => ctx.line("relay").pulse(60001)),
        fault: await errorOf(() => ctx.sensor("soil").read()),
      };
    case "device-refused-uncaught":
      await ctx.line("siren").pulse(200);
      return "not refused";
    case "not-awaited":
      ctx.publish("test/1", "x");
      ctx.publish("test/2", "x").then(() => ctx.publish("test/3", "x"));
      return null;
    case "not-awaited-ungranted":
      ctx.publish("forbidden/topic", "x");
      return "not refused";
    case "log":
      ctx.log.debug("fine %s", "detail");
      ctx.log.info("it is %d °C", 28);
      ctx.log.warn("getting warm");
      ctx.log.error("on fire");
      return null;
    case "output":
      console.log("to standard output, ☃");
      console.error("to standard error");
      return null;
    case "env":
      return ctx.env.GREETING;
    case "secret":
      return fs.readFileSync((process.env.TEST_SECRETS ?? "/run/secrets") + "/token");
    case "raise":
      brokenPart();
      break;
    case "reject":
      await ctx.state.put("half", "done");
      await ctx.publish("test/half", "done");
      throw ctx.reject("no zone of that name");
    case "reject-cause":
      try {
        brokenPart();
      } catch (cause) {
        throw ctx.reject("no zone of that name", { cause });
      }
      break;
    case "reject-not-awaited":
      (async () => {
        throw ctx.reject("no zone of that name");
      })();
      return "not rejected";
    case "retry":
      await ctx.publish("test/half", "done");
      throw ctx.retry("the valve is moving", { after: { nan: NaN, inf: Infinity }[event.text()] ?? Number(event.text()) });
    case "retry-no-number":
      for (const wrong of [true, null, undefined, 30n]) {
        if (!(await errorOf(() => ctx.retry("x", { after: wrong }))).includes("is a number of seconds")) return `a retry took ${wrong}`;
      }
      if (!(await errorOf(() => ctx.retry("x"))).includes("is a number of seconds")) return "a retry took no time";
      throw ctx.retry("the valve is moving", { after: "30" });
    case "exit":
      process.exit(3);
      break;
    case "leaves-a-child":
      spawn("sleep", ["60"], { stdio: "ignore" });
      return "done";
    case "unserialisable":
      return 10n;
    case "too-large":
      return Buffer.alloc(2 << 20);
    case "too-large-call":
      await ctx.state.put("big", Buffer.alloc(2 << 20));
      return "not refused";
    case "count":
      return String(seen);
  }
  throw new Error("unknown case " + event.type);
}
