"""Does what the type of its event asks for."""

import logging
import os
import subprocess
import sys

SEEN = 0


def broken_part():
    raise ValueError("it broke")


def handle(event, ctx):
    global SEEN
    SEEN += 1
    what = event.type
    if what == "echo":
        return event.data
    if what == "json":
        v = event.json()
        return {"sum": v["a"] + v["b"], "text": "grüße"}
    if what == "text":
        return "28.5 °C"
    if what == "nothing":
        return None
    if what == "attributes":
        return {
            "id": event.id,
            "type": event.type,
            "source": event.source,
            "subject": event.subject,
            "datacontenttype": event.datacontenttype,
            "length": str(len(event.data)),
            "seconds": str(int(event.time.timestamp())),
            **event.extensions,
        }
    if what == "context":
        return {"invocation": ctx.invocation, "function": ctx.function, "version": ctx.version, "attempt": ctx.attempt}
    if what == "deadline":
        return str(ctx.remaining_ms())
    if what == "state":
        seen = {"there": ctx.state["there"].decode(), "absent": ctx.state.get("absent", b"").decode()}
        try:
            ctx.state["absent"]
        except KeyError:
            pass
        seen["has"], seen["hasnt"] = "there" in ctx.state, "absent" in ctx.state
        ctx.state["a/1"] = "old"
        ctx.state["a/1"] = b"new"
        ctx.state["a/2"] = b""
        ctx.state["data"] = event.data
        del ctx.state["there"]
        del ctx.state["absent"]
        assert ctx.state["a/2"] == b""
        seen["written"] = ctx.state["a/1"].decode()
        seen["deleted"] = "there" in ctx.state
        seen["keys"], seen["a"] = list(ctx.state), ctx.state.keys("a/")
        for wrong in (1, None, {}):
            try:
                ctx.state["x"] = wrong
                return "a value of the wrong type was taken"
            except TypeError:
                pass
        return seen
    if what == "state-and-raise":
        ctx.state["half"] = b"done"
        ctx.publish("test/half", "done")
        raise RuntimeError("no further")
    if what == "other-state":
        other = ctx.state.of("other")
        n = other["shared/in"]
        other["shared/out"] = str(int(n) + 1)
        return n
    if what == "publish":
        ctx.publish("test/text", "grüße")
        ctx.publish("test/bytes", b"\xff\x01", qos=0, retain=True)
        ctx.publish("test/json", {"on": True}, qos=2)
        ctx.publish("test/empty", b"", retain=True)
        return None
    if what == "properties":
        ctx.publish(
            "test/properties", "x", content_type="text/plain", response_topic="test/answer", correlation=b"\xff\x01", expiry=1.5,
            user=[("tag", "a"), ("tag", "b"), ("Größe", "ü=ü")],
        )  # fmt: skip
        ctx.publish("test/one", "x", user={"tag": ""})
        return None
    if what == "properties-refused":
        errors = {}
        for name, wrong in (("expiry", {"expiry": -1}), ("response", {"response_topic": "a/#"}), ("user", {"user": {"k": "\0"}})):
            try:
                ctx.publish("test/wrong", "x", **wrong)
            except Exception as e:
                errors[name] = str(e)
        return errors
    if what in ("reply", "reply-nobody", "reply-ungranted"):
        ctx.reply({"ok": True}, qos=2, content_type="application/json", expiry=60, user={"tag": "a"})
        return None
    if what == "invoke":
        return [ctx.invoke("sink", {"n": 1}), ctx.invoke("sink", "x", type="test.special", subject="über", id="my-id")]
    if what == "ungranted":
        errors = {}
        for name, call in (
            ("get", lambda: ctx.state.of("secret").get("k")),
            ("put", lambda: ctx.state.of("secret").__setitem__("k", b"v")),
            ("publish", lambda: ctx.publish("forbidden/topic", "x")),
            ("invoke", lambda: ctx.invoke("stranger", "x")),
        ):
            try:
                call()
            except Exception as e:
                errors[name] = str(e)
        return errors
    if what == "ungranted-uncaught":
        ctx.publish("forbidden/topic", "x")
    if what == "lines":
        relay, seen = ctx.line("relay"), {}
        relay.set(False)
        relay.set(True)
        seen["set"] = relay.read()
        relay.pulse(200)
        seen["pulsed"] = relay.read()
        relay.set(True)
        relay.release()
        for wrong in ("off", 1, None):
            try:
                relay.set(wrong)
                return "a line was set %r" % (wrong,)
            except TypeError:
                pass
        for wrong in (0.2, "1s", True):
            try:
                relay.pulse(wrong)
                return "a pulse took %r ms" % (wrong,)
            except TypeError:
                pass
        for name in ("door", "hatch", "relay"):
            seen[name] = ctx.line(name).read()
        return seen
    if what == "lines-and-raise":
        ctx.line("relay").set(True)
        raise RuntimeError("no further")
    if what == "sensor":
        return ctx.sensor("greenhouse").read()
    if what == "device-refused":
        errors = {}
        for name, call in (
            ("ungranted-line", lambda: ctx.line("siren").set(True)),
            ("ungranted-read", lambda: ctx.line("siren").read()),
            ("ungranted-sensor", lambda: ctx.sensor("attic").read()),
            ("input", lambda: ctx.line("door").set(True)),
            ("no-time", lambda: ctx.line("relay").pulse(0)),
            ("long", lambda: ctx.line("relay").pulse(60001)),
            ("fault", lambda: ctx.sensor("soil").read()),
        ):
            try:
                call()
            except Exception as e:
                errors[name] = str(e)
        return errors
    if what == "device-refused-uncaught":
        ctx.line("siren").pulse(200)
    if what == "log":
        ctx.log.debug("fine %s", "detail")
        logging.debug("not shown: the root logger begins at info")
        logging.info("it is %d °C", 28)
        ctx.log.warning("getting warm")
        ctx.log.error("on fire")
        return None
    if what == "output":
        print("to standard output, ☃")
        print("to standard error", file=sys.stderr)
        return None
    if what == "env":
        return ctx.env["GREETING"]
    if what == "secret":
        with open(os.environ.get("TEST_SECRETS", "/run/secrets") + "/token", "rb") as f:
            return f.read()
    if what == "raise":
        broken_part()
    if what == "reject":
        ctx.state["half"] = b"done"
        ctx.publish("test/half", "done")
        raise ctx.reject("no zone of that name")
    if what == "reject-cause":
        try:
            broken_part()
        except ValueError:
            raise ctx.reject("no zone of that name")  # noqa: B904 - the context is enough
    if what == "retry":
        ctx.publish("test/half", "done")
        raise ctx.retry("the valve is moving", after=float(event.text()))
    if what == "retry-no-number":
        for wrong in (True, None):
            try:
                ctx.retry("the valve is moving", after=wrong)
                return "a retry took %r" % (wrong,)
            except TypeError:
                pass
        raise ctx.retry("the valve is moving", after="30")
    if what == "exit":
        os._exit(3)
    if what == "leaves-a-child":
        subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return "done"
    if what == "unserialisable":
        return {"readings": {1, 2}}
    if what == "too-large":
        return b"x" * (2 << 20)
    if what == "too-large-call":
        ctx.state["big"] = b"x" * (2 << 20)
    if what == "count":
        return str(SEEN)
    raise AssertionError("unknown case " + what)
