// The side of edgefn that a node function sees. edgefn.d.ts has its types and
// documentation.

import { format } from "node:util";

/** Returns value as it is sent and its media type. */
export function payload(value, what) {
  if (typeof value === "string") {
    return [Buffer.from(value), "text/plain; charset=utf-8"];
  }
  const bytes = asBytes(value);
  if (bytes) {
    return [bytes, "application/octet-stream"];
  }
  const type = value?.constructor?.name ?? typeof value;
  let json;
  try {
    json = JSON.stringify(value);
  } catch (e) {
    throw new TypeError(`${what} of type ${type} cannot be sent: ${e.message.split("\n")[0]}; give bytes, a string, or what JSON can hold`);
  }
  if (json === undefined) {
    throw new TypeError(`${what} of type ${type} cannot be sent: JSON cannot hold it; give bytes, a string, or what JSON can hold`);
  }
  return [Buffer.from(json), "application/json"];
}

function asBytes(value) {
  if (value instanceof Uint8Array) {
    return value;
  }
  if (value instanceof ArrayBuffer) {
    return new Uint8Array(value);
  }
  return ArrayBuffer.isView(value) ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : undefined;
}

function text(what, value) {
  if (value !== undefined && typeof value !== "string") {
    throw new TypeError(`${what} is a string, not ${value === null ? "null" : typeof value}`);
  }
  return value;
}

const MOST_EXPIRY = 0xffffffff;

/** What MQTT 5 says of a message as a call has it; what is not given is undefined. */
function properties({ contentType, responseTopic, correlation, expiry, user }) {
  const bytes = typeof correlation === "string" ? Buffer.from(correlation) : asBytes(correlation);
  if (correlation !== undefined && !bytes) {
    throw new TypeError(`correlation data is bytes or a string, not ${correlation === null ? "null" : typeof correlation}`);
  }
  if (expiry !== undefined) {
    if (typeof expiry !== "number") {
      throw new TypeError(`expiry is a number of seconds, not ${expiry === null ? "null" : typeof expiry}`);
    }
    if (!(expiry > 0 && expiry <= MOST_EXPIRY)) {
      throw new RangeError(`expiry is a number of seconds over 0, ${MOST_EXPIRY} at most, not ${expiry}`);
    }
  }
  const pairs = user === undefined || Array.isArray(user) ? user : Object.entries(user ?? { "": null });
  if (pairs?.some((p) => !Array.isArray(p) || p.length !== 2 || p.some((s) => typeof s !== "string"))) {
    throw new TypeError("user properties are an object of strings, or an array of arrays [name, value]");
  }
  return {
    content_type: text("a content type", contentType),
    response_topic: text("a response topic", responseTopic),
    correlation: bytes,
    expiry_s: expiry === undefined ? undefined : Math.ceil(expiry),
    user: pairs,
  };
}

const MOST_SECONDS = 86400;

/** The handler says that its event can never succeed. */
export class Rejected extends Error {
  constructor(why, options) {
    super(text("the reason", why) || "the handler rejected the event", options);
  }

  get name() {
    return "Rejected";
  }
}

/** The handler wants its event again, but not at once. */
export class RetryAfter extends Error {
  #after;

  constructor(why, after, options) {
    super(text("the reason", why) || "the handler asked for another attempt", options);
    if (typeof after !== "number" || !(after >= 0 && after <= MOST_SECONDS)) {
      const given = typeof after === "number" ? after : after === null ? "null" : typeof after;
      const wrong = typeof after === "number" ? RangeError : TypeError;
      throw new wrong(`after is a number of seconds from 0 to ${MOST_SECONDS} (24 h), not ${given}`);
    }
    this.#after = after;
  }

  get name() {
    return "RetryAfter";
  }

  get after() {
    return this.#after;
  }

  /** The time in whole milliseconds, no fewer than asked for. */
  static milliseconds(e) {
    return Math.ceil(e.#after * 1000);
  }
}

const KNOWN = new Set(["specversion", "id", "type", "source", "subject", "time", "datacontenttype", "expirytime", "data"]);

export class Event {
  constructor(data = Buffer.alloc(0), attributes = {}) {
    this.data = typeof data === "string" ? Buffer.from(data) : data;
    this.id = attributes.id ?? "";
    this.type = attributes.type ?? "";
    this.source = attributes.source ?? "";
    this.subject = attributes.subject ?? "";
    this.datacontenttype = attributes.datacontenttype ?? "";
    this.time = attributes.time ? new Date(attributes.time) : undefined;
    this.expires = attributes.expirytime ? new Date(attributes.expirytime) : undefined;
    this.attributes = attributes;
    this.extensions = Object.fromEntries(Object.entries(attributes).filter(([k]) => !KNOWN.has(k)));
  }

  json() {
    return JSON.parse(this.text());
  }

  text() {
    return this.data.toString("utf8");
  }
}

class State {
  #link;
  #function;

  constructor(link, name) {
    this.#link = link;
    this.#function = name;
  }

  of(name) {
    return new State(this.#link, text("a function's name", name));
  }

  async get(key) {
    const answer = await this.#link.call("get", { function: this.#function, key: text("a state key", key) });
    return answer.found ? (answer.value ?? Buffer.alloc(0)) : undefined;
  }

  async put(key, value) {
    const bytes = typeof value === "string" ? Buffer.from(value) : asBytes(value);
    if (!bytes) {
      throw new TypeError(
        `a state value is bytes or a string, not ${value?.constructor?.name ?? typeof value}: encode it, for example with JSON.stringify`,
      );
    }
    await this.#link.call("put", { function: this.#function, key: text("a state key", key), value: bytes });
  }

  async delete(key) {
    await this.#link.call("delete", { function: this.#function, key: text("a state key", key) });
  }

  async keys(prefix = "") {
    return (await this.#link.call("list", { function: this.#function, prefix: text("a prefix", prefix) })).keys ?? [];
  }
}

class Line {
  #link;
  #name;

  constructor(link, name) {
    this.#link = link;
    this.#name = name;
  }

  async set(on) {
    if (typeof on !== "boolean") {
      throw new TypeError(`a line is set true or false, not ${on === null ? "null" : typeof on}`);
    }
    await this.#link.call("set_line", { device: this.#name, on });
  }

  async pulse(ms) {
    if (!Number.isSafeInteger(ms)) {
      throw new TypeError(`a pulse takes a whole number of milliseconds, not ${typeof ms === "number" ? ms : typeof ms}`);
    }
    await this.#link.call("pulse_line", { device: this.#name, ms });
  }

  async release() {
    await this.#link.call("release_line", { device: this.#name });
  }

  async read() {
    return Boolean((await this.#link.call("read_line", { device: this.#name })).on);
  }
}

class Sensor {
  #link;
  #name;

  constructor(link, name) {
    this.#link = link;
    this.#name = name;
  }

  async read() {
    return JSON.parse((await this.#link.call("read_sensor", { device: this.#name })).value.toString("utf8"));
  }
}

export class Context {
  #link;
  #due;
  #event;

  constructor(link, about, event) {
    this.#link = link;
    this.#event = event;
    this.#due = performance.now() + (about.deadline_ms ?? 0);
    this.deadline = new Date(Date.now() + (about.deadline_ms ?? 0));
    this.invocation = about.invocation ?? "";
    this.function = about.function ?? "";
    this.version = about.version ?? "";
    this.trigger = about.trigger ?? "";
    this.attempt = about.attempt ?? 1;
    this.env = process.env;
    this.state = new State(link, undefined);
    const log =
      (level) =>
      (...args) =>
        link.log(level, format(...args));
    this.log = { debug: log("debug"), info: log("info"), warn: log("warning"), error: log("error") };
  }

  remainingMs() {
    return Math.max(0, Math.floor(this.#due - performance.now()));
  }

  async publish(topic, data, { qos = 1, retain = false, broker, ...more } = {}) {
    if (data === undefined || data === null) {
      throw new TypeError(`the data of a message is ${data}: give "" for an empty message`);
    }
    if (![0, 1, 2].includes(qos)) {
      throw new RangeError(`qos is 0, 1 or 2, not ${qos}`);
    }
    await this.#link.call("publish", {
      broker: text("a broker's name", broker),
      topic: text("a topic", topic),
      data: payload(data, "message")[0],
      qos,
      retain: Boolean(retain),
      ...properties(more),
    });
  }

  async reply(data, { qos = 1, contentType, expiry, user } = {}) {
    const { mqttresponsetopic: topic, mqttcorrelation: asked, source = "" } = this.#event?.attributes ?? {};
    if (!topic) {
      throw new Error("the event asks for no answer: it has no mqttresponsetopic, which only a message of MQTT 5 can have");
    }
    const correlation = asked ? Buffer.from(asked, "base64") : undefined;
    const broker = source.startsWith("mqtt://") ? source.slice(7) : undefined;
    await this.publish(topic, data, { qos, broker, contentType, correlation, expiry, user });
  }

  async invoke(name, data, { type, subject, id } = {}) {
    const answer = await this.#link.call("invoke", {
      function: text("a function's name", name),
      data: data === undefined || data === null ? Buffer.alloc(0) : payload(data, "data")[0],
      type: text("a type", type),
      subject: text("a subject", subject),
      id: text("an id", id),
    });
    return answer.id ?? "";
  }

  reject(why, { cause } = {}) {
    return new Rejected(why, cause === undefined ? undefined : { cause });
  }

  retry(why, { after, cause } = {}) {
    return new RetryAfter(why, after, cause === undefined ? undefined : { cause });
  }

  line(name) {
    return new Line(this.#link, text("a line's name", name));
  }

  sensor(name) {
    return new Sensor(this.#link, text("a sensor's name", name));
  }
}
