/**
 * The side of edgefn that a node function sees.
 *
 * A function is a module with a handler, named in edgefn.yaml as
 * MODULE:FUNCTION, an ES module or CommonJS:
 *
 *     // main.mjs
 *     export async function handle(event, ctx) {
 *       const reading = event.json();
 *       await ctx.state.put("last", String(reading.celsius));
 *       await ctx.publish("greenhouse/last", reading);
 *       return { fan: reading.celsius > 28 };
 *     }
 *
 * What it returns goes to the function's output: bytes and strings as they
 * are, anything else as JSON; undefined and null mean that there is no output
 * message. What it throws is a failure: the event is tried again, and nothing
 * that it wrote, published, invoked or commanded takes place. Two failures say
 * how it goes on:
 *
 *     throw ctx.reject("no zone of that name");             // never again: to the dead letters
 *     throw ctx.retry("the valve is moving", { after: 30 }); // again, in 30 seconds or later
 *
 * console goes to the function's log, and so does ctx.log. For an editor that
 * checks types, copy this file beside the function and write
 *
 *     /** @type {import("./edgefn").Handler} *\/
 *     export async function handle(event, ctx) {
 */

/** What edgefn calls for each event. */
export type Handler = (event: Event, ctx: Context) => unknown | Promise<unknown>;

/** What is sent as it is. */
export type Bytes = string | Uint8Array | ArrayBuffer;

/** What happened, with the attributes of CloudEvents 1.0. */
export interface Event {
  /** The payload; empty if there is none. */
  readonly data: Buffer;
  /** Unique within its source. */
  readonly id: string;
  /** The kind of event, such as "edgefn.mqtt.message". */
  readonly type: string;
  /** Where it happened, such as "mqtt://local". */
  readonly source: string;
  /** What it is about: the MQTT topic, the line, the path. */
  readonly subject: string;
  /** The media type of the data; empty if it is not known. */
  readonly datacontenttype: string;
  /** When it happened, to the millisecond; undefined if the source has no clock. */
  readonly time: Date | undefined;
  /** When it is of no more use to its sender; undefined if it never expires. */
  readonly expires: Date | undefined;
  /** Every attribute as text, under its CloudEvents name. */
  readonly attributes: Record<string, string>;
  /** The attributes beside CloudEvents' own, such as "mqttqos". */
  readonly extensions: Record<string, string>;
  /** The data read as JSON; throws a SyntaxError if it is none. */
  json(): any;
  /** The data read as UTF-8. */
  text(): string;
}

/**
 * The state of a function: text keys, bytes as values, which outlive the
 * invocation. Reads see what this invocation wrote. What it wrote takes place,
 * all at once, when the handler returns; nothing of it if the handler throws.
 */
export interface State {
  /** The value of key, or undefined if there is none. */
  get(key: string): Promise<Buffer | undefined>;
  /** Writes the value of key. */
  put(key: string, value: Bytes): Promise<void>;
  /** Removes key; a key that is not there is no error. */
  delete(key: string): Promise<void>;
  /** The keys that begin with prefix, in order. */
  keys(prefix?: string): Promise<string[]>;
  /** The state of another function, which edgefn.yaml must grant. */
  of(name: string): State;
}

/**
 * A digital line, by its name in the node's config. On is its active level,
 * whichever voltage that is. Commands take place, in their order, when the
 * handler returns; none of them if the handler throws.
 */
export interface Line {
  /**
   * Commands the line on or off. The command stands until the function gives
   * another or releases it. After a crash of the node it may be given again.
   */
  set(on: boolean): Promise<void>;
  /**
   * Commands the line on for a number of milliseconds, 1 to 60000, and then
   * off. Later commands of the line wait for it. It is never given twice, also
   * across a crash of the node.
   */
  pulse(ms: number): Promise<void>;
  /**
   * Gives the function's command up: the line takes the value of the next
   * function that commands it, or its safe value.
   */
  release(): Promise<void>;
  /** Whether the line is on: as it is at this moment, or as the invocation has last commanded it. */
  read(): Promise<boolean>;
}

/** A sensor, by its name in the node's config. */
export interface Sensor {
  /**
   * What the sensor measures, by quantities with their units, such as
   * { temperature_C: 25.1 }. The reading may be one that another function asked
   * for just before. Rejects with Refused if the sensor does not work.
   */
  read(): Promise<Record<string, number>>;
}

/**
 * What Context.publish may say of a message beside its topic and data. From
 * contentType on it is MQTT 5's, and left out where a receiver or a broker speaks
 * 3.1.1.
 */
export interface PublishOptions {
  /** 1 if it is not given. */
  qos?: 0 | 1 | 2;
  /** Has the broker keep the message for subscribers to come. */
  retain?: boolean;
  /** That of the function's output, or the embedded one, if it is not given. */
  broker?: string;
  /** The media type of the data. */
  contentType?: string;
  /** Where an answer is expected. */
  responseTopic?: string;
  /** What the answer carries, so that it is known what it answers. */
  correlation?: Bytes;
  /** In seconds, rounded up to a whole one: after that nobody gets the message any more. */
  expiry?: number;
  /** Names and values that the applications agree on; an array may have one name several times. */
  user?: Record<string, string> | [name: string, value: string][];
}

/** What Context.reject makes. */
export interface Rejected extends Error {
  readonly name: "Rejected";
}

/** What Context.retry makes. */
export interface RetryAfter extends Error {
  readonly name: "RetryAfter";
  /** The seconds to the next attempt, at least. */
  readonly after: number;
}

/** A log with levels; its arguments are formatted as console.log's. */
export interface Log {
  debug(...args: unknown[]): void;
  info(...args: unknown[]): void;
  warn(...args: unknown[]): void;
  error(...args: unknown[]): void;
}

/**
 * What an invocation may ask of its node, and what it knows of itself. A call
 * that is not granted or not valid, or whose device does not work, rejects with
 * an error named "Refused". Calls that nobody awaits are finished before the
 * result is sent.
 */
export interface Context {
  /** The function's own state. */
  readonly state: State;
  /** The function's log. */
  readonly log: Log;
  /** The environment, as edgefn.yaml sets it. */
  readonly env: NodeJS.ProcessEnv;
  /** The id of this invocation, which its log lines carry. */
  readonly invocation: string;
  /** The function's name. */
  readonly function: string;
  /** The digest of the running version. */
  readonly version: string;
  /** The name of the trigger that the event came by; empty if it was invoked. */
  readonly trigger: string;
  /** 1 the first time that this event is handled, then 2, 3 ... */
  readonly attempt: number;
  /** When the time limit is reached. */
  readonly deadline: Date;
  /** How long the handler may still run, in milliseconds. */
  remainingMs(): number;
  /**
   * Publishes an MQTT message when the handler has returned. Strings and bytes
   * are sent as they are, anything else as JSON. "" with retain removes a
   * retained message. The topic must be granted (grants: publish).
   */
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<void>;
  /**
   * Answers the event: publishes to its response topic, with its correlation
   * data, at the broker that it came from. The event has asked for an answer if
   * it has the extension mqttresponsetopic; otherwise this rejects. The sender
   * chose that topic: it must be granted as any other (grants: publish).
   */
  reply(data: unknown, options?: Pick<PublishOptions, "qos" | "contentType" | "expiry" | "user">): Promise<void>;
  /**
   * Hands an event to another function when the handler has returned, and does
   * not wait for that function. Resolves to the event's id. The function must
   * be granted (grants: invoke).
   */
  invoke(name: string, data?: unknown, options?: { type?: string; subject?: string; id?: string }): Promise<string>;
  /**
   * The error that says "never again": throw ctx.reject("no zone of that name").
   * The event goes to the dead letters at once, with the reason, and is not tried
   * again. It is only so if the error leaves the handler: made without throw it
   * does nothing, and a catch between swallows it. A stack is kept if there is a
   * cause. Throws a TypeError if the reason is not a string.
   */
  reject(why: string, options?: { cause?: unknown }): Rejected;
  /**
   * The error that says "again, but later": throw ctx.retry("the valve is
   * moving", { after: 30 }). after is in seconds, 0 to 86400 (24 h), fractions
   * too; it is rounded up to a millisecond. The next attempt comes no sooner than
   * that; 0 leaves it to edgefn.yaml (retry). This attempt counts: behind the
   * last one the event goes to the dead letters. It is only so if the error
   * leaves the handler, as with reject.
   *
   * Throws a TypeError if after is no number or the reason is not a string, a
   * RangeError if after is negative, more than 86400 or NaN. Such an error that
   * leaves the handler is a failure like any other.
   */
  retry(why: string, options: { after: number; cause?: unknown }): RetryAfter;
  /** The line of that name, which must be granted (grants: lines). */
  line(name: string): Line;
  /** The sensor of that name, which must be granted (grants: sensors). */
  sensor(name: string): Sensor;
}
