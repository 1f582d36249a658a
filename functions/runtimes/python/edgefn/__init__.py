"""The side of edgefn that a python function sees.

A function is a module with a handler, named in edgefn.yaml as MODULE:FUNCTION:

    def handle(event, ctx):
        reading = event.json()
        ctx.state["last"] = str(reading["celsius"])
        ctx.publish("greenhouse/last", reading)
        return {"fan": reading["celsius"] > 28}

What it returns goes to the function's output: bytes and str as they are,
anything else as JSON, and None means that there is no output message. An
`async def` handler works too. What it raises is a failure: the event is tried
again, and nothing that it wrote, published, invoked or commanded takes place.
Two failures say how it goes on:

    raise ctx.reject("no zone of that name")        # never again: to the dead letters
    raise ctx.retry("the valve is moving", after=30)  # again, in 30 seconds or later

Both are Exceptions, so an `except Exception` around them swallows them.

Nothing needs to be imported from here; the names are for type hints and tests:

    from edgefn import Context, Event

    def handle(event: Event, ctx: Context): ...

print and logging go to the function's log, and so does ctx.log.
"""

import time

from edgefn import _wire
from edgefn._wire import Refused

__all__ = ["Context", "Event", "Line", "Refused", "Rejected", "RetryAfter", "Sensor", "State"]
__version__ = "4"

_KNOWN = frozenset(("specversion", "id", "type", "source", "subject", "time", "datacontenttype", "expirytime", "data"))


def _payload(value, what):
    """Return value as it is sent and its media type."""
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    if isinstance(value, (bytes, bytearray)):
        return bytes(value), "application/octet-stream"
    if isinstance(value, memoryview):
        return value.tobytes(), "application/octet-stream"
    import json

    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), "application/json"
    except (TypeError, ValueError, RecursionError) as e:
        raise TypeError(
            "%s of type %s cannot be sent: %s; give bytes, str, or what JSON can hold" % (what, type(value).__name__, e)
        ) from e


_MOST_EXPIRY = 0xFFFFFFFF


def _properties(content_type, response_topic, correlation, expiry, user):
    """Return what MQTT 5 says of a message as a call has it; what is not given is not in it."""
    call = {"content_type": _text("a content type", content_type), "response_topic": _text("a response topic", response_topic)}
    if correlation is not None:
        if isinstance(correlation, str):
            correlation = correlation.encode()
        elif not isinstance(correlation, (bytes, bytearray)):
            raise TypeError("correlation data is bytes or str, not %s" % type(correlation).__name__)
        call["correlation"] = correlation
    if expiry is not None:
        if not isinstance(expiry, (int, float)) or isinstance(expiry, bool):
            raise TypeError("expiry is a number of seconds, not %r" % (expiry,))
        if not 0 < expiry <= _MOST_EXPIRY:  # which a NaN is not either
            raise ValueError("expiry is a number of seconds over 0, %d at most, not %r" % (_MOST_EXPIRY, expiry))
        call["expiry_s"] = int(-(-expiry // 1))
    if user is not None:
        pairs = [tuple(p) for p in (user.items() if hasattr(user, "items") else user)]
        if not all(len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], str) for p in pairs):
            raise TypeError("user properties are a dict of str to str, or a list of pairs of str")
        call["user"] = pairs
    return {k: v for k, v in call.items() if v is not None}


def _text(what, value):
    if value is not None and not isinstance(value, str):
        raise TypeError("%s is str, not %s" % (what, type(value).__name__))
    return value


class Rejected(Exception):
    """The handler says that its event can never succeed: Context.reject makes one."""

    def __init__(self, why: str):
        super().__init__(_text("the reason", why) or "the handler rejected the event")


class RetryAfter(Exception):
    """The handler wants its event again, but not at once: Context.retry makes one."""

    after: "int | float"
    """The seconds to the next attempt, at least."""

    def __init__(self, why: str, after: "int | float"):
        super().__init__(_text("the reason", why) or "the handler asked for another attempt")
        _milliseconds(after)
        self.after = after


_MOST_SECONDS = 86400


def _milliseconds(after):
    """Return the seconds of a retry in whole milliseconds, no fewer than asked for."""
    wanted = "after is a number of seconds from 0 to %d (24 h), not %r" % (_MOST_SECONDS, after)
    if not isinstance(after, (int, float)) or isinstance(after, bool):
        raise TypeError(wanted)
    if not 0 <= after <= _MOST_SECONDS:  # which a NaN is not either
        raise ValueError(wanted)
    return int(-(-after * 1000 // 1))


def _datetime(text):
    if not text:
        return None
    from datetime import datetime

    if text[-1] in "Zz":
        text = text[:-1] + "+00:00"
    if text[19:20] == ".":  # Python before 3.11 reads 3 or 6 digits only
        zone = max(text.rfind("+"), text.rfind("-"))
        text = text[:20] + text[20:zone][:6].ljust(6, "0") + text[zone:]
    return datetime.fromisoformat(text)


class Event:
    """What happened, with the attributes of CloudEvents 1.0.

    For a test of a handler an event is made from what it should carry:
    Event(b'{"celsius": 30}', subject="greenhouse/1/temperature").
    """

    __slots__ = ("attributes", "data")

    attributes: "dict[str, str]"
    """Every attribute as text, under its CloudEvents name."""
    data: bytes
    """The payload; empty if there is none."""

    def __init__(self, data: "bytes | str" = b"", **attributes: str):
        self.data = data.encode() if isinstance(data, str) else data
        self.attributes = attributes

    def json(self) -> object:
        """Return the data read as JSON; json.JSONDecodeError if it is none."""
        import json

        return json.loads(self.data)

    def text(self) -> str:
        """Return the data read as UTF-8; UnicodeDecodeError if it is none."""
        return self.data.decode()

    @property
    def id(self) -> str:
        """The event's id, unique within its source."""
        return self.attributes.get("id", "")

    @property
    def type(self) -> str:
        """The kind of event, such as "edgefn.mqtt.message"."""
        return self.attributes.get("type", "")

    @property
    def source(self) -> str:
        """Where it happened, such as "mqtt://local"."""
        return self.attributes.get("source", "")

    @property
    def subject(self) -> str:
        """What it is about: the MQTT topic, the line, the path."""
        return self.attributes.get("subject", "")

    @property
    def datacontenttype(self) -> str:
        """The media type of the data; empty if it is not known."""
        return self.attributes.get("datacontenttype", "")

    @property
    def time(self) -> "datetime.datetime | None":  # noqa: F821
        """When it happened, with its zone, to the microsecond; None if the source has no clock."""
        return _datetime(self.attributes.get("time"))

    @property
    def expires(self) -> "datetime.datetime | None":  # noqa: F821
        """When it is of no more use to its sender, as time has it; None if it never expires."""
        return _datetime(self.attributes.get("expirytime"))

    @property
    def extensions(self) -> "dict[str, str]":
        """The attributes beside CloudEvents' own, such as "mqttqos"."""
        return {k: v for k, v in self.attributes.items() if k not in _KNOWN}

    def __repr__(self):
        return "Event(%s, data=%d bytes)" % (", ".join("%s=%r" % kv for kv in sorted(self.attributes.items())), len(self.data))


def _key(key):
    if not isinstance(key, str):
        raise TypeError("a state key is str, not %s" % type(key).__name__)
    return key


class State:
    """The state of a function: a mapping of text to bytes that outlives the invocation.

    Reads see what this invocation wrote. What it wrote takes place, all at
    once, when the handler returns; nothing of it if the handler raises.
    """

    __slots__ = ("_link", "_function")

    def __init__(self, link, function=None):
        self._link, self._function = link, function

    def of(self, function: str) -> "State":
        """Return the state of another function, which edgefn.yaml must grant."""
        return State(self._link, _text("a function's name", function))

    def _get(self, key):
        return self._link.call("get", {"function": self._function, "key": _key(key)})

    def get(self, key: str, default: "bytes | None" = None) -> "bytes | None":
        """Return the value of key, or default if there is none."""
        answer = self._get(key)
        return answer.get("value") or b"" if answer.get("found") else default

    def keys(self, prefix: str = "") -> "list[str]":
        """Return the keys that begin with prefix, in order."""
        return self._link.call("list", {"function": self._function, "prefix": _text("a prefix", prefix)}).get("keys") or []

    def __getitem__(self, key: str) -> bytes:
        answer = self._get(key)
        if not answer.get("found"):
            raise KeyError(key)
        return answer.get("value") or b""

    def __setitem__(self, key: str, value: "bytes | str") -> None:
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, (bytes, bytearray)):
            raise TypeError("a state value is bytes or str, not %s: encode it, for example with json.dumps" % type(value).__name__)
        self._link.call("put", {"function": self._function, "key": _key(key), "value": value})

    def __delitem__(self, key: str) -> None:
        """Remove key; a key that is not there is no error."""
        self._link.call("delete", {"function": self._function, "key": _key(key)})

    def __contains__(self, key: object) -> bool:
        return bool(self._get(key).get("found"))

    def __iter__(self):
        return iter(self.keys())


class Line:
    """A digital line, by its name in the node's config.

    On is its active level, whichever voltage that is. Commands take place, in
    their order, when the handler returns; none of them if it raises.
    """

    __slots__ = ("_link", "_name")

    def __init__(self, link, name):
        self._link, self._name = link, name

    def set(self, on: bool) -> None:
        """Command the line on or off.

        The command stands until the function gives another or releases it.
        After a crash of the node it may be given again.
        """
        if not isinstance(on, bool):
            raise TypeError("a line is set True or False, not %r" % (on,))
        self._link.call("set_line", {"device": self._name, "on": on})

    def pulse(self, ms: int) -> None:
        """Command the line on for a number of milliseconds, 1 to 60000, and then off.

        Later commands of the line wait for it. It is never given twice, also
        across a crash of the node.
        """
        if not isinstance(ms, int) or isinstance(ms, bool):
            raise TypeError("a pulse takes a whole number of milliseconds, not %r" % (ms,))
        self._link.call("pulse_line", {"device": self._name, "ms": ms})

    def release(self) -> None:
        """Give the function's command up.

        The line takes the value of the next function that commands it, or its
        safe value.
        """
        self._link.call("release_line", {"device": self._name})

    def read(self) -> bool:
        """Tell whether the line is on: as it is at this moment, or as the invocation has last commanded it."""
        return bool(self._link.call("read_line", {"device": self._name}).get("on"))


class Sensor:
    """A sensor, by its name in the node's config."""

    __slots__ = ("_link", "_name")

    def __init__(self, link, name):
        self._link, self._name = link, name

    def read(self) -> "dict[str, float]":
        """Return what the sensor measures, by quantities with their units: {"temperature_C": 25.1}.

        The reading may be one that another function asked for just before.
        Refused is raised if the sensor does not work.
        """
        import json

        return json.loads(self._link.call("read_sensor", {"device": self._name}).get("value") or b"")


class Context:
    """What an invocation may ask of its node, and what it knows of itself."""

    __slots__ = ("_link", "_due", "_event", "attempt", "deadline", "function", "invocation", "state", "trigger", "version")

    state: State
    """The function's own state."""
    invocation: str
    """The id of this invocation, which its log lines carry."""
    function: str
    """The function's name."""
    version: str
    """The digest of the running version."""
    trigger: str
    """The name of the trigger that the event came by; empty if it was invoked."""
    attempt: int
    """1 the first time that this event is handled, then 2, 3 ..."""
    deadline: float
    """When the time limit is reached, as time.time() counts."""

    def __init__(self, link, about, event=None):
        left = about.get("deadline_ms", 0)
        self._link, self._event = link, event
        self._due = _wire.monotonic_ms() + left
        self.state = State(link)
        self.deadline = time.time() + left / 1000
        self.invocation = about.get("invocation", "")
        self.function = about.get("function", "")
        self.version = about.get("version", "")
        self.trigger = about.get("trigger", "")
        self.attempt = about.get("attempt", 1)

    def remaining_ms(self) -> int:
        """Return how long the handler may still run, in milliseconds."""
        return max(0, self._due - _wire.monotonic_ms())

    def publish(
        self,
        topic: str,
        data: object,
        qos: int = 1,
        retain: bool = False,
        broker: "str | None" = None,
        *,
        content_type: "str | None" = None,
        response_topic: "str | None" = None,
        correlation: "bytes | str | None" = None,
        expiry: "int | float | None" = None,
        user: "dict[str, str] | list[tuple[str, str]] | None" = None,
    ) -> None:
        """Publish an MQTT message when the handler has returned.

        bytes and str are sent as they are, anything else as JSON. b"" with
        retain=True removes a retained message. The topic must be granted in
        edgefn.yaml (grants: publish).

        What follows is MQTT 5's, and left out where a receiver or a broker
        speaks 3.1.1. content_type is the media type of the data.
        response_topic says where an answer is expected, correlation what it
        carries. expiry is in seconds, rounded up to a whole one: after that
        nobody gets the message any more. user are names and values that the
        applications agree on; a list may have one name several times.
        """
        if data is None:
            raise TypeError('the data of a message is None: give b"" for an empty message')
        if qos not in (0, 1, 2):
            raise ValueError("qos is 0, 1 or 2, not %r" % (qos,))
        data, _ = _payload(data, "message")
        call = {"broker": _text("a broker's name", broker), "topic": _text("a topic", topic), "data": data, "qos": int(qos), "retain": bool(retain)}
        call.update(_properties(content_type, response_topic, correlation, expiry, user))
        self._link.call("publish", call)

    def reply(
        self,
        data: object,
        qos: int = 1,
        *,
        content_type: "str | None" = None,
        expiry: "int | float | None" = None,
        user: "dict[str, str] | list[tuple[str, str]] | None" = None,
    ) -> None:
        """Answer the event: publish to its response topic, with its correlation data, at the broker that it came from.

        The event has asked for an answer if it has the extension
        mqttresponsetopic; ValueError if not. The sender chose that topic:
        edgefn.yaml must grant it as any other (grants: publish).
        """
        about = self._event.attributes if self._event else {}
        topic, asked = about.get("mqttresponsetopic"), about.get("mqttcorrelation")
        if not topic:
            raise ValueError("the event asks for no answer: it has no mqttresponsetopic, which only a message of MQTT 5 can have")
        correlation = None
        if asked:
            import base64

            correlation = base64.b64decode(asked)
        source = about.get("source", "")
        broker = source[7:] if source.startswith("mqtt://") else None
        self.publish(topic, data, qos, False, broker, content_type=content_type, correlation=correlation, expiry=expiry, user=user)

    def invoke(
        self, function: str, data: object = b"", type: "str | None" = None, subject: "str | None" = None, id: "str | None" = None
    ) -> str:
        """Hand an event to another function when the handler has returned.

        It does not wait for that function. Returns the event's id. The
        function must be granted in edgefn.yaml (grants: invoke).
        """
        data = b"" if data is None else _payload(data, "data")[0]
        call = {
            "function": _text("a function's name", function),
            "data": data,
            "type": _text("a type", type),
            "subject": _text("a subject", subject),
            "id": _text("an id", id),
        }
        return self._link.call("invoke", call).get("id", "")

    def line(self, name: str) -> Line:
        """Return the line of that name, which edgefn.yaml must grant (grants: lines)."""
        return Line(self._link, _text("a line's name", name))

    def sensor(self, name: str) -> Sensor:
        """Return the sensor of that name, which edgefn.yaml must grant (grants: sensors)."""
        return Sensor(self._link, _text("a sensor's name", name))

    def reject(self, why: str) -> Rejected:
        """Return the exception that says "never again": raise ctx.reject("no zone of that name").

        The event goes to the dead letters at once, with the reason, and is not
        tried again. It is only so if the exception leaves the handler: made
        without raise it does nothing, and an `except Exception` between
        swallows it. A traceback is kept if it was raised from another
        exception, or while one was handled.

        TypeError: the reason is not str.
        """
        return Rejected(why)

    def retry(self, why: str, after: "int | float") -> RetryAfter:
        """Return the exception that says "again, but later": raise ctx.retry("the valve is moving", after=30).

        after is in seconds, 0 to 86400 (24 h), fractions too; it is rounded up
        to a millisecond. The next attempt comes no sooner than that; 0 leaves
        it to edgefn.yaml (retry). This attempt counts: behind the last one the
        event goes to the dead letters. It is only so if the exception leaves
        the handler, as with reject.

        TypeError: after is no number, or the reason is not str. ValueError:
        after is negative, more than 86400, or NaN. Such an error that leaves
        the handler is a failure like any other.
        """
        return RetryAfter(why, after)

    @property
    def log(self) -> "logging.Logger":  # noqa: F821
        """A logger of the function's log, with every level on."""
        import logging

        return logging.getLogger("edgefn")

    @property
    def env(self) -> "dict[str, str]":
        """The environment, as edgefn.yaml sets it."""
        import os

        return os.environ
