// What edgefn starts for a node function: main.mjs MODULE:FUNCTION.

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { setFlagsFromString } from "node:v8";
import { Wire, VERSION, FD, MAX_FRAME } from "./wire.mjs";
import { Event, Context, Rejected, RetryAfter, payload } from "./sdk.mjs";

const SDK = "4";
const here = import.meta.url.slice(0, import.meta.url.lastIndexOf("/") + 1);
const herePath = decodeURIComponent(here.slice("file://".length));

/** Why a handler cannot be loaded, in words for its author. */
class LoadError extends Error {}

function isSocket(fd) {
  try {
    return fs.fstatSync(fd).isSocket();
  } catch {
    return false;
  }
}

if (process.argv.length !== 3 || !isSocket(FD)) {
  console.error("edgefn: this is started by an edgefn node: main.mjs MODULE:FUNCTION, with a socket to the node as file 3");
  process.exit(2);
}

// V8 lets its young generation grow to 48 MiB. Where that is most of what the
// function may use, it collects more often instead. Set here and not as an
// argument of node, since any such argument costs 10 ms: node's start-up cache
// does not fit then.
const SMALL = 256 << 20; // bytes
if (Number(process.env.EDGEFN_MEMORY) < SMALL) {
  setFlagsFromString("--semi-space-growth-factor=1");
}

const wire = new Wire(FD, () => process.exit(0));
const once = process.env.EDGEFN_ISOLATION !== "instance";
const firstLine = (text) => text.split("\n").find((line) => line.trim() !== "")?.trim() ?? "";

/** Returns what of a stack is the author's own. */
function ownStack(error) {
  const seen = new Set();
  const parts = [];
  for (let e = error; e instanceof Error && !seen.has(e); e = e.cause) {
    seen.add(e);
    const lines = String(e.stack ?? e).split("\n");
    parts.push(lines.filter((l) => !l.includes(here) && !l.includes(herePath) && !/\(?node:internal\//.test(l)).join("\n"));
  }
  return parts.length === 0 ? "" : parts.join("\ncaused by: ");
}

/** Returns what was thrown in one line. */
function oneLine(error) {
  try {
    if (error instanceof Error) {
      return firstLine(`${error.name}: ${error.message}`);
    }
    return `thrown: ${typeof error === "string" ? firstLine(error) : (JSON.stringify(error) ?? String(error))}`;
  } catch (e) {
    return `something thrown that has no text (${e?.name})`;
  }
}

function clip(text, most) {
  text = text.toWellFormed?.() ?? text;
  return text.length <= most
    ? text
    : `${text.slice(0, most / 4)}\n... ${text.length - most} characters left out ...\n${text.slice((-most * 3) / 4)}`;
}

function fail(id, kind, message, detail, sent, retryAfterMs) {
  const body = { kind, message: clip(message, 2000), detail: clip(detail, 16384), retry_after_ms: retryAfterMs || undefined };
  wire.write("failure", id, body, sent);
}

/** Tells the node what the handler of event id threw. */
function failThrown(id, error, sent) {
  const reason = () => String(error.message).split(/\s+/).filter(Boolean).join(" ");
  if (error instanceof Rejected) {
    // Where it was thrown says little; its cause may say much.
    fail(id, "rejected", reason(), error.cause === undefined ? "" : ownStack(error), sent);
  } else if (error instanceof RetryAfter) {
    fail(id, "raised", reason(), ownStack(error), sent, RetryAfter.milliseconds(error));
  } else {
    fail(id, "raised", oneLine(error), ownStack(error), sent);
  }
}

/** The nearest of names to name, as a question for its author. */
function nearest(name, names) {
  const distance = (a, b) => {
    let row = Array.from({ length: b.length + 1 }, (_, i) => i);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) {
        next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
      }
      row = next;
    }
    return row[b.length];
  };
  const best = names.map((n) => [distance(name, n), n]).sort((a, b) => a[0] - b[0])[0];
  return best && (best[0] <= Math.max(2, name.length / 2) || names.length === 1) ? `; did you mean ${best[1]}?` : "";
}

const EXTENSIONS = [".mjs", ".js", ".cjs"];

/** Finds the file of a module that the author named without its extension. */
function findFile(module) {
  const base = path.join(process.cwd(), module);
  const candidates = [
    ...(EXTENSIONS.includes(path.extname(base)) ? [base] : []),
    ...EXTENSIONS.map((e) => base + e),
    ...EXTENSIONS.map((e) => path.join(base, "index" + e)),
  ];
  const file = candidates.find((f) => fs.statSync(f, { throwIfNoEntry: false })?.isFile());
  if (file) {
    return file;
  }
  let names = [];
  try {
    names = fs
      .readdirSync(path.dirname(base))
      .filter((f) => EXTENSIONS.includes(path.extname(f)))
      .map((f) => f.slice(0, -path.extname(f).length));
  } catch {
    // no such folder: there is nothing to name
  }
  const there = names.length > 0 ? `; there is ${names.slice(0, 10).join(", ")}` : "";
  throw new LoadError(
    `module ${module} of handler is not there: none of ${EXTENSIONS.map((e) => module + e).join(", ")} exists in ${process.cwd()}${there}${nearest(path.basename(module), names)}`,
  );
}

async function load(spec) {
  const at = spec.lastIndexOf(":");
  const [module, name] = [spec.slice(0, at), spec.slice(at + 1)];
  const file = findFile(module);
  const loaded = await import(pathToFileURL(file).href);
  const parts = name.split(".");
  // The exports of CommonJS are under default, and some of them beside it.
  for (const from of [loaded, loaded.default]) {
    let [owner, found] = [undefined, from];
    for (const part of parts) {
      [owner, found] = [found, found?.[part]];
    }
    if (typeof found === "function") {
      return parts.length > 1 ? found.bind(owner) : found;
    }
    if (found !== undefined) {
      throw new LoadError(`handler ${spec} is not a function but ${typeof found}, in ${file}`);
    }
  }
  const names = [...new Set([...Object.keys(loaded), ...Object.keys(loaded.default ?? {})])].filter((n) => n !== "default");
  const has = names.length > 0 ? `it exports ${names.slice(0, 10).join(", ")}` : "it exports nothing";
  throw new LoadError(`function ${name} of handler ${spec} is not exported by ${file}: ${has}${nearest(name, names)}`);
}

/** Returns what an author can do about an error of loading. */
function loadHint(error) {
  if (error?.code === "ERR_MODULE_NOT_FOUND" || error?.code === "MODULE_NOT_FOUND") {
    return " (dependencies go into package.json with its lock file, or a node_modules folder, beside edgefn.yaml)";
  }
  if (error instanceof SyntaxError && /import statement|Unexpected token 'export'/.test(error.message)) {
    return ' (this file is read as CommonJS: name it .mjs, or put "type": "module" in package.json)';
  }
  return "";
}

let current; // the invocation under way: {id, link, failed}

/** Ends the invocation under way, or the loading, for an error that nobody caught. */
function uncaught(error, fatal) {
  if (!loaded) {
    failLoad(error);
  } else if (current) {
    current.failed(error, fatal);
  } else {
    console.error(ownStack(error) || oneLine(error));
    if (fatal) {
      process.exit(1);
    }
  }
}

function failLoad(error) {
  const end = () => process.exit(1);
  if (error instanceof LoadError) {
    fail(0, "load", error.message, "", end);
    return;
  }
  const module = process.argv[2].slice(0, process.argv[2].lastIndexOf(":"));
  fail(0, "load", `module ${module} does not load: ${oneLine(error)}${loadHint(error)}`, ownStack(error), end);
}

async function serve(id, body) {
  wire.limit = body.context.max_frame ?? MAX_FRAME;
  const link = wire.link();
  const { data, ...attributes } = body.event;
  let fatal = false;
  let over = false;
  const ended = () => {
    over = true;
    current = undefined;
    link.end();
  };
  const sent = () => {
    if (fatal || once) {
      process.exit(fatal ? 1 : 0);
    }
  };
  current = {
    failed(error, isFatal) {
      if (over) {
        return;
      }
      fatal = isFatal;
      ended();
      failThrown(id, error, sent);
    },
  };
  const { failed } = current;
  let value;
  try {
    const event = new Event(data ?? undefined, attributes);
    value = await handler(event, new Context(link, body.context, event));
  } catch (e) {
    failed(e, false);
    return;
  }
  // Calls that the handler did not wait for are part of it, and so are their
  // errors: those show as unhandled rejections, after this turn of the loop.
  do {
    await link.drained();
    await new Promise((resume) => setImmediate(resume));
  } while (link.pending > 0);
  if (over) {
    return;
  }
  ended();
  try {
    const [bytes, type] = value === undefined || value === null ? [null, ""] : payload(value, "result");
    wire.write("result", id, { data: bytes, datacontenttype: type }, sent);
  } catch (e) {
    fail(id, "result", e.message, "", sent);
  }
}

let handler;
let loaded = false;
process.on("uncaughtException", (e) => uncaught(e, true));
process.on("unhandledRejection", (e) => uncaught(e, false));
try {
  handler = await load(process.argv[2]);
  loaded = true;
  wire.onevent = serve;
  wire.write("hello", 0, { v: VERSION, runtime: `node ${process.versions.node}`, sdk: SDK });
} catch (e) {
  failLoad(e);
}
