"""Tests of the python shim: python3 -m unittest, in this folder.

What a function sees of its node is tested by functions/functionstest.
"""

import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
from datetime import datetime, timedelta, timezone

import edgefn
from edgefn import _run, _wire


class Codec(unittest.TestCase):
    # From RFC 8949, appendix A.
    EXAMPLES = {
        "00": 0,
        "17": 23,
        "1818": 24,
        "1903e8": 1000,
        "1a000f4240": 1000000,
        "1b000000e8d4a51000": 1000000000000,
        "1bffffffffffffffff": 18446744073709551615,
        "20": -1,
        "3903e7": -1000,
        "f4": False,
        "f5": True,
        "f6": None,
        "40": b"",
        "4401020304": b"\x01\x02\x03\x04",
        "60": "",
        "62c3bc": "ü",
        "64f0908591": "\U00010151",
        "80": [],
        "83010203": [1, 2, 3],
        "a0": {},
        "a26161016162820203": {"a": 1, "b": [2, 3]},
    }

    def test_examples(self):
        for text, value in self.EXAMPLES.items():
            with self.subTest(text):
                self.assertEqual(_wire.decode(bytes.fromhex(text)), value)
                self.assertEqual(_wire.encode(value).hex(), text)

    def test_keys_are_in_order(self):
        self.assertEqual(_wire.encode({"b": 1, "aa": 2, "a": 3}).hex(), "a3616103616201" + "62616102")

    def test_refused(self):
        for text in ("", "18", "44010203", "9f", "8201", "a161", "c100", "f90000", "ff", "0000", "61ff"):
            with self.subTest(text), self.assertRaises((ValueError, IndexError)):
                _wire.decode(bytes.fromhex(text))
        for value in (1.5, {1}, object(), 1 << 64):
            with self.subTest(value), self.assertRaises((TypeError, OverflowError)):
                _wire.encode(value)


class Event(unittest.TestCase):
    def test_time(self):
        second = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
        for text, want in {
            "2026-02-03T04:05:06Z": second,
            "2026-02-03T04:05:06.5Z": second.replace(microsecond=500000),
            "2026-02-03T04:05:06.123456789Z": second.replace(microsecond=123456),
            "2026-02-03T06:05:06.1+02:00": second.replace(microsecond=100000),
            "2026-02-02T23:05:06-05:00": second,
            "": None,
        }.items():
            with self.subTest(text):
                self.assertEqual(edgefn.Event(time=text).time, want)
        self.assertIsNone(edgefn.Event().time)
        self.assertEqual(edgefn.Event(time="2026-02-03T06:05:06+02:00").time.utcoffset(), timedelta(hours=2))

    def test_data(self):
        event = edgefn.Event('{"a": "ü"}', subject="x", mqttqos="1")
        self.assertEqual(event.json(), {"a": "ü"})
        self.assertEqual(event.text(), '{"a": "ü"}')
        self.assertEqual(event.extensions, {"mqttqos": "1"})
        self.assertEqual((event.subject, event.id, event.type), ("x", "", ""))
        with self.assertRaises(ValueError):
            edgefn.Event(b"no json").json()


class Publish(unittest.TestCase):
    """What is refused before the node is asked; what it hears is in functions/functionstest."""

    def test_wrong(self):
        for wrong, kind in (
            ({"content_type": b"x"}, TypeError), ({"response_topic": 1}, TypeError), ({"correlation": 1}, TypeError),
            ({"expiry": "30"}, TypeError), ({"expiry": True}, TypeError), ({"expiry": timedelta(seconds=30)}, TypeError),
            ({"expiry": 0}, ValueError), ({"expiry": -1}, ValueError), ({"expiry": float("nan")}, ValueError), ({"expiry": 1 << 32}, ValueError),
            ({"user": {"k": 1}}, TypeError), ({"user": [("a", "b", "c")]}, TypeError), ({"user": 1}, TypeError),
        ):  # fmt: skip
            with self.subTest(wrong), self.assertRaises(kind):
                edgefn.Context(None, {}).publish("a", b"", **wrong)

    def test_given(self):
        self.assertEqual(edgefn._properties(None, None, None, None, None), {})
        self.assertEqual(
            edgefn._properties("a/b", "t", "ü", 0.1, {"k": "v"}),
            {"content_type": "a/b", "response_topic": "t", "correlation": "ü".encode(), "expiry_s": 1, "user": [("k", "v")]},
        )
        self.assertEqual(edgefn._properties(None, None, b"", 0xFFFFFFFF, [])["expiry_s"], 0xFFFFFFFF)

    def test_reply_to_nobody(self):
        for event in (None, edgefn.Event(source="mqtt://local")):
            with self.subTest(event), self.assertRaisesRegex(ValueError, "asks for no answer"):
                edgefn.Context(None, {}, event).reply("x")


class Outcome(unittest.TestCase):
    """What a handler's own exceptions say; what the node hears is in functions/functionstest."""

    def setUp(self):
        self.ctx = edgefn.Context(None, {})

    def test_reject(self):
        e = self.ctx.reject("no zone")
        self.assertIsInstance(e, edgefn.Rejected)
        self.assertEqual(_run._failure(e), ("rejected", "no zone", "", 0))
        self.assertEqual(_run._failure(self.ctx.reject("")), ("rejected", "the handler rejected the event", "", 0))
        self.assertEqual(_run._failure(edgefn.Rejected("a\nb"))[1], "a b")
        with self.assertRaises(TypeError):
            self.ctx.reject(ValueError("no zone"))

    def test_reject_of_another(self):
        for raised, shown in (
            ("raise self.ctx.reject('x')", False),
            ("raise self.ctx.reject('x') from ValueError('it broke')", True),
            ("try:\n  int('it broke')\nexcept ValueError:\n  raise self.ctx.reject('x')", True),
            ("try:\n  int('it broke')\nexcept ValueError:\n  raise self.ctx.reject('x') from None", False),
        ):
            with self.subTest(raised):
                try:
                    exec(raised)
                except edgefn.Rejected as e:
                    detail = _run._failure(e)[2]
                self.assertEqual("it broke" in detail, shown, detail)

    def test_retry(self):
        e = self.ctx.retry("busy", after=30)
        self.assertIsInstance(e, edgefn.RetryAfter)
        self.assertEqual(e.after, 30)
        self.assertEqual(_run._failure(e), ("raised", "busy", "edgefn.RetryAfter: busy\n", 30000))
        for after, ms in ((0, 0), (0.0, 0), (0.0001, 1), (0.001, 1), (1.0015, 1002), (2.3, 2300), (86400, 86400000), (86400.0, 86400000)):
            with self.subTest(after):
                self.assertEqual(_run._failure(self.ctx.retry("busy", after))[3], ms)

    def test_retry_bounds(self):
        for after, wrong in (
            (-1, ValueError), (-0.001, ValueError), (86400.001, ValueError), (1 << 70, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
            ("30", TypeError), (None, TypeError), (True, TypeError), (timedelta(seconds=30), TypeError),
        ):  # fmt: skip
            with self.subTest(after), self.assertRaisesRegex(wrong, r"from 0 to 86400 \(24 h\), not "):
                self.ctx.retry("busy", after=after)

    def test_subclass_without_a_time(self):
        class Busy(edgefn.RetryAfter):
            def __init__(self):
                pass

        kind, message, _, ms = _run._failure(Busy())
        self.assertEqual((kind, ms), ("raised", 0))
        self.assertIn("after is a number of seconds", message)


class Load(unittest.TestCase):
    """What is said of a handler that does not load."""

    def load(self, source, handler="main:handle", files=None):
        """Return the first frame of an instance as kind, body."""
        with tempfile.TemporaryDirectory() as app:
            for name, text in {"main.py": source, **(files or {})}.items():
                os.makedirs(os.path.dirname(os.path.join(app, name)), exist_ok=True)
                with open(os.path.join(app, name), "w", encoding="utf-8") as f:
                    f.write(textwrap.dedent(text))
            ours, theirs = socket.socketpair()
            main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "main.py")
            # The shell puts the socket where a node does.
            argv = ["/bin/sh", "-c", 'exec 3<&%d; exec "$@"' % theirs.fileno(), "sh"]
            argv += [sys.executable, "-I", "-S", "-B", "-X", "utf8", main, handler]
            process = subprocess.Popen(argv, cwd=app, pass_fds=[theirs.fileno()])
            theirs.close()
            try:
                kind, _, body = _wire.Conn(ours.fileno()).read()
            finally:
                ours.close()
                process.wait(60)
            return kind, body

    def refused(self, *args, **kwargs):
        kind, body = self.load(*args, **kwargs)
        self.assertEqual((kind, body.get("kind")), ("failure", "load"), body)
        return body

    def test_hello(self):
        kind, body = self.load("def handle(event, ctx): pass")
        self.assertEqual((kind, body["v"]), ("hello", 2))
        self.assertEqual(body["runtime"], "python %d.%d.%d" % sys.version_info[:3])

    def test_handlers_that_are_taken(self):
        for source, handler in (
            ("def handle(*args): pass", "main:handle"),
            ("def handle(event, ctx, more=1): pass", "main:handle"),
            ("async def handle(event, ctx): pass", "main:handle"),
            ("class Fan:\n  def handle(self, event, ctx): pass\nfan = Fan()", "main:fan.handle"),
            ("import functools\nhandle = functools.partial(print, 1)", "main:handle"),
        ):
            with self.subTest(source):
                self.assertEqual(self.load(source, handler)[0], "hello")

    def test_packages(self):
        files = {"pkg/__init__.py": "", "pkg/sub.py": "from dep import x\ndef handle(event, ctx): pass", "vendor/dep.py": "x = 1"}
        self.assertEqual(self.load("", "pkg.sub:handle", files)[0], "hello")

    def test_no_module(self):
        message = self.refused("", "mian:handle")["message"]
        self.assertIn("module mian of handler is not there", message)
        self.assertIn("did you mean main?", message)

    def test_no_dependency(self):
        body = self.refused("import numpee")
        self.assertIn("No module named 'numpee'", body["message"])
        self.assertIn("requirements.txt", body["message"])
        self.assertNotIn("_run.py", body["detail"])

    def test_syntax(self):
        body = self.refused("def handle(event, ctx):\n  return (\n")
        self.assertIn("SyntaxError", body["message"])
        self.assertIn("main.py, line 2", body["message"])

    def test_not_a_function(self):
        self.assertIn("is not a function but int", self.refused("handle = 1")["message"])

    def test_arguments(self):
        self.assertIn("takes 1 argument, but is called with two", self.refused("def handle(event): pass")["message"])
        self.assertIn("takes 3 arguments", self.refused("def handle(a, b, c): pass")["message"])

    def test_exit(self):
        self.assertIn("SystemExit: 3", self.refused("import sys\nsys.exit(3)")["message"])

    def test_what_has_no_text(self):
        source = "class E(Exception):\n  def __str__(self): raise RuntimeError('no')\nraise E()"
        self.assertIn("its text raised RuntimeError", self.refused(source)["message"])

    def test_text_that_is_no_unicode(self):
        self.assertIn("\\udcff", self.refused("raise ValueError('\\udcff')")["message"])


if __name__ == "__main__":
    unittest.main()
