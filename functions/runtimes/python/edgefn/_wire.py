"""The frames between an instance and its node, over file 3.

A frame is a 4-byte big-endian length and then CBOR (RFC 8949): an array of
[kind, id, body]. This is the part of CBOR that frames are made of, in its
deterministic form: integers, bytes, text, arrays, maps with text keys, false,
true and null. It imports nothing that Python has not loaded at its start.
"""

import posix
import time
from _thread import allocate_lock

VERSION = 2
FD = 3
MAX_FRAME = (1 << 20) + (64 << 10)  # until an event says otherwise
MAX_TEXT = 16 << 10  # of a log line or a traceback


class Refused(Exception):
    """The node did not accept a call: it is not granted, not valid, or the device does not work.

    The message says which and what to do.
    """


def _head(out, major, n):
    major <<= 5
    if n < 24:
        out.append(major | n)
        return
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 1 << (8 * size):
            out.append(major | info)
            out += n.to_bytes(size, "big")
            return
    raise OverflowError("integer is too large: %d" % n)


def _encode(out, v):
    if v is None:
        out.append(0xF6)
    elif v is True:
        out.append(0xF5)
    elif v is False:
        out.append(0xF4)
    elif isinstance(v, str):
        b = v.encode()
        _head(out, 3, len(b))
        out += b
    elif isinstance(v, (bytes, bytearray)):
        _head(out, 2, len(v))
        out += v
    elif isinstance(v, int):
        if v >= 0:
            _head(out, 0, v)
        else:
            _head(out, 1, -1 - v)
    elif isinstance(v, dict):
        _head(out, 5, len(v))
        # The order of the encoded keys: shorter first, then by byte.
        for k in sorted(v, key=lambda k: (len(k), k)):
            _encode(out, k)
            _encode(out, v[k])
    elif isinstance(v, (list, tuple)):
        _head(out, 4, len(v))
        for item in v:
            _encode(out, item)
    else:
        raise TypeError("a frame cannot hold %s" % type(v).__name__)


def encode(v):
    """Return v as CBOR."""
    out = bytearray()
    _encode(out, v)
    return out


def _decode(b, i):
    first = b[i]
    major, info = first >> 5, first & 31
    i += 1
    if info < 24:
        n = info
    elif info < 28:
        size = 1 << (info - 24)
        if major == 7:
            raise ValueError("number with a fraction")
        if i + size > len(b):
            raise IndexError("cut")
        n = int.from_bytes(b[i : i + size], "big")
        i += size
    else:
        raise ValueError("indefinite length")
    if major == 0:
        return n, i
    if major == 1:
        return -1 - n, i
    if major == 2 or major == 3:
        end = i + n
        if end > len(b):
            raise IndexError("cut")
        v = bytes(b[i:end])
        return (v if major == 2 else v.decode()), end
    if major == 4:
        items = []
        for _ in range(n):
            v, i = _decode(b, i)
            items.append(v)
        return items, i
    if major == 5:
        items = {}
        for _ in range(n):
            k, i = _decode(b, i)
            items[k], i = _decode(b, i)
        return items, i
    if major == 7 and 20 <= info <= 22:
        return (False, True, None)[info - 20], i
    raise ValueError("unknown item 0x%02x" % first)


def decode(b):
    """Return what the CBOR in b says."""
    v, end = _decode(b, 0)
    if end != len(b):
        raise ValueError("bytes behind the frame")
    return v


def clip(text, most=MAX_TEXT):
    """Return text as it may stand in a frame, its middle left out if it is long."""
    # What is no character, such as a byte of a file name, is shown escaped.
    text = text.encode(errors="backslashreplace").decode()
    if len(text) <= most:
        return text
    return "%s\n... %d characters left out ...\n%s" % (text[: most // 4], len(text) - most, text[-most * 3 // 4 :])


class Conn:
    """The connection to the node."""

    def __init__(self, fd=FD):
        self.fd = fd
        self.pid = posix.getpid()
        self.limit = MAX_FRAME
        self.calls = 0
        self.writing = allocate_lock()
        self.calling = allocate_lock()

    def _fill(self, n):
        got = posix.read(self.fd, n)
        if len(got) == n:
            return got
        parts = bytearray(got)
        while len(parts) < n:
            got = posix.read(self.fd, min(n - len(parts), 1 << 20))
            if not got:
                raise EOFError("the node closed the connection")
            parts += got
        return bytes(parts)

    def read(self):
        """Return the next frame as kind, id, body."""
        kind, number, body = decode(self._fill(int.from_bytes(self._fill(4), "big")))
        return kind, number, body

    def write(self, kind, number, body):
        """Send a frame."""
        frame = encode((kind, number, body))
        if len(frame) > self.limit:
            raise ValueError("%s is too large: %d bytes with its attributes, at most %d are possible" % (kind, len(frame), self.limit))
        frame[:0] = len(frame).to_bytes(4, "big")
        if posix.getpid() != self.pid:
            raise RuntimeError("the node is asked from a forked process: only the process that was given the event may")
        with self.writing:
            n = posix.write(self.fd, frame)
            while n < len(frame):
                n += posix.write(self.fd, frame[n:])

    def call(self, kind, body):
        """Send a call and return the body of its answer. The caller holds calling."""
        self.calls += 1
        number = self.calls
        self.write(kind, number, {k: v for k, v in body.items() if v is not None})
        answer, of, body = self.read()
        if of != number or answer not in ("ok", "error"):
            raise RuntimeError("the node answered %s %d with %s %d" % (kind, number, answer, of))
        if answer == "error":
            raise Refused(body.get("message", "refused"))
        return body

    def log(self, level, text):
        """Send a line for the function's log."""
        self.write("log", 0, {"level": level, "text": clip(text)})


class Link:
    """The calls of one invocation. It ends before its result is sent."""

    __slots__ = ("conn", "over")

    def __init__(self, conn):
        self.conn, self.over = conn, False

    def call(self, kind, body):
        """Send a call and return the body of its answer."""
        with self.conn.calling:
            if self.over:
                raise RuntimeError("the invocation is over: its handler has returned")
            return self.conn.call(kind, body)

    def end(self):
        """Refuse further calls, once the one under way has its answer."""
        with self.conn.calling:
            self.over = True


def monotonic_ms():
    """Return a clock that only goes forward, in milliseconds."""
    return time.monotonic_ns() // 1000000
