// The frames between an instance and its node, over file 3.
//
// A frame is a 4-byte big-endian length and then CBOR (RFC 8949): an array of
// [kind, id, body]. This is the part of CBOR that frames are made of, in its
// deterministic form: integers, bytes, text, arrays, maps with text keys,
// false, true and null.

import net from "node:net";

export const VERSION = 2;
export const FD = 3;
export const MAX_FRAME = (1 << 20) + (64 << 10); // until an event says otherwise
const MAX_TEXT = 16 << 10; // characters of a log line

/** The node did not accept a call: it is not granted, not valid, or the device does not work. */
export class Refused extends Error {
  get name() {
    return "Refused";
  }
}

function head(out, major, n) {
  major <<= 5;
  if (n < 24) {
    out.push(Buffer.of(major | n));
  } else if (n < 0x100) {
    out.push(Buffer.of(major | 24, n));
  } else if (n < 0x10000) {
    out.push(Buffer.of(major | 25, n >> 8, n & 255));
  } else if (n < 0x100000000) {
    const b = Buffer.alloc(5, major | 26);
    b.writeUInt32BE(n, 1);
    out.push(b);
  } else {
    const b = Buffer.alloc(9, major | 27);
    b.writeBigUInt64BE(BigInt(n), 1);
    out.push(b);
  }
}

function put(out, v) {
  if (v === null) {
    out.push(Buffer.of(0xf6));
  } else if (typeof v === "boolean") {
    out.push(Buffer.of(v ? 0xf5 : 0xf4));
  } else if (typeof v === "number" && Number.isSafeInteger(v)) {
    head(out, v < 0 ? 1 : 0, v < 0 ? -1 - v : v);
  } else if (typeof v === "string") {
    const b = Buffer.from(v);
    head(out, 3, b.length);
    out.push(b);
  } else if (v instanceof Uint8Array) {
    head(out, 2, v.length);
    out.push(v);
  } else if (Array.isArray(v)) {
    head(out, 4, v.length);
    v.forEach((item) => put(out, item));
  } else if (typeof v === "object") {
    const keys = Object.keys(v).filter((k) => v[k] !== undefined);
    // The order of the encoded keys: shorter first, then by byte.
    keys.sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
    head(out, 5, keys.length);
    for (const k of keys) {
      put(out, k);
      put(out, v[k]);
    }
  } else {
    throw new TypeError(`a frame cannot hold ${typeof v}`);
  }
}

/** Returns v as CBOR. */
export function encode(v) {
  const out = [];
  put(out, v);
  return Buffer.concat(out);
}

/** Returns what the CBOR in b says. */
export function decode(b) {
  let i = 0;
  const take = (n) => {
    if (i + n > b.length) {
      throw new RangeError("frame is cut");
    }
    i += n;
    return i - n;
  };
  const length = (info) => {
    if (info < 24) {
      return info;
    }
    switch (info) {
      case 24:
        return b.readUInt8(take(1));
      case 25:
        return b.readUInt16BE(take(2));
      case 26:
        return b.readUInt32BE(take(4));
      case 27:
        return Number(b.readBigUInt64BE(take(8)));
    }
    throw new TypeError("indefinite length");
  };
  const item = () => {
    const first = b[take(1)];
    const [major, info] = [first >> 5, first & 31];
    if (major === 7) {
      const v = { 20: false, 21: true, 22: null }[info];
      if (v === undefined) {
        throw new TypeError(`unknown item 0x${first.toString(16)}`);
      }
      return v;
    }
    const n = length(info);
    switch (major) {
      case 0:
        return n;
      case 1:
        return -1 - n;
      case 2: {
        const at = take(n);
        return b.subarray(at, at + n);
      }
      case 3: {
        const at = take(n);
        return b.toString("utf8", at, at + n);
      }
      case 4: {
        const items = [];
        for (let k = 0; k < n; k++) {
          items.push(item());
        }
        return items;
      }
      case 5: {
        const map = {};
        for (let k = 0; k < n; k++) {
          const key = item();
          // An attribute named __proto__ is an attribute.
          Object.defineProperty(map, key, { value: item(), enumerable: true, writable: true, configurable: true });
        }
        return map;
      }
    }
    throw new TypeError("tags are not used");
  };
  const v = item();
  if (i !== b.length) {
    throw new RangeError("bytes behind the frame");
  }
  return v;
}

/** The connection to the node. */
export class Wire {
  limit = MAX_FRAME;
  onevent = () => {};
  #socket;
  #calls = 0;
  #waiting = new Map(); // the calls that have no answer yet, by id
  #chunks = [];
  #have = 0;
  #need = 4; // bytes until something can be read

  /** closed is called when the node is done with this instance. */
  constructor(fd, closed) {
    this.#socket = new net.Socket({ fd, readable: true, writable: true });
    this.#socket.on("error", closed);
    this.#socket.on("end", closed);
    this.#socket.on("data", (chunk) => this.#receive(chunk));
  }

  #receive(chunk) {
    this.#chunks.push(chunk);
    this.#have += chunk.length;
    while (this.#have >= this.#need) {
      const all = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
      const end = 4 + all.readUInt32BE(0);
      if (all.length >= end) {
        this.#chunks = all.length > end ? [all.subarray(end)] : [];
        this.#have = all.length - end;
        this.#need = 4;
        this.#handle(...decode(all.subarray(4, end)));
      } else {
        this.#chunks = [all];
        this.#need = end;
      }
    }
  }

  #handle(kind, id, body) {
    if (kind === "event") {
      this.onevent(id, body);
      return;
    }
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (kind === "ok") {
      waiting?.(null, body);
    } else {
      waiting?.(new Refused(body.message ?? "refused"));
    }
  }

  /** Sends a frame. sent is called when the system has it. */
  write(kind, id, body, sent) {
    const frame = encode([kind, id, body]);
    if (frame.length > this.limit) {
      throw new RangeError(
        `${kind} is too large: ${frame.length} bytes with its attributes, at most ${this.limit} are possible`,
      );
    }
    const length = Buffer.alloc(4);
    length.writeUInt32BE(frame.length);
    this.#socket.write(Buffer.concat([length, frame]), sent);
  }

  /** Sends a line for the function's log. */
  log(level, text) {
    text = text.toWellFormed?.() ?? text;
    this.write("log", 0, { level, text: text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)} ...` : text });
  }

  /** Returns the calls of one invocation. It ends before its result is sent. */
  link() {
    let over = false;
    let idle = [];
    const link = {
      pending: 0,
      log: (level, text) => this.log(level, text),
      call: (kind, body) =>
        new Promise((resolve, reject) => {
          if (over) {
            throw new Error("the invocation is over: its handler has returned");
          }
          const id = ++this.#calls;
          this.write(kind, id, body);
          link.pending++;
          this.#waiting.set(id, (error, answer) => {
            if (error) {
              reject(error);
            } else {
              resolve(answer);
            }
            if (--link.pending === 0) {
              idle.forEach((resume) => resume());
              idle = [];
            }
          });
        }),
      /** Waits until every call has its answer. */
      drained: () => new Promise((resume) => (link.pending === 0 ? resume() : idle.push(resume))),
      end: () => {
        over = true;
      },
    };
    return link;
  }
}
