"""Loads a function's handler and serves it events."""

import posix
import sys

import edgefn
from edgefn import _wire

_HERE = __file__.rpartition("/")[0]
_EX_USAGE = 2


class _LoadError(Exception):
    """The handler cannot be loaded; the message says why."""


def main(argv):
    """Serve the handler that argv[1] names. It does not return."""
    try:
        socket = posix.fstat(_wire.FD).st_mode & 0o170000 == 0o140000
    except OSError:
        socket = False
    if len(argv) != 2 or not socket:
        print("edgefn: this is started by an edgefn node: main.py MODULE:FUNCTION, with a socket to the node as file 3", file=sys.stderr)
        sys.exit(_EX_USAGE)
    posix.set_inheritable(_wire.FD, False)
    conn = _wire.Conn()
    # A line is a log entry: it goes out when it ends.
    sys.stdout.reconfigure(line_buffering=True)
    _set_path()
    sys.meta_path.insert(0, _LoggingFinder(conn))
    try:
        handler = _load(argv[1], conn)
        _say(conn, "hello", 0, {"v": _wire.VERSION, "runtime": "python %d.%d.%d" % sys.version_info[:3], "sdk": edgefn.__version__})
        if handler is None:
            _exit(1)
        _warm(handler)
        once = posix.environ.get(b"EDGEFN_ISOLATION") != b"instance"
        while True:
            _serve(conn, handler)
            if once:
                break
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the node is done with this instance
    _exit(0)


def _exit(status):
    """End the process. What runs in other threads ends with it."""
    _flush()
    posix._exit(status)


def _flush():
    for f in (sys.stdout, sys.stderr):
        try:
            f.flush()
        except Exception:  # noqa: BLE001 - the author's own stream may do anything
            pass


def _set_path():
    """Set what can be imported.

    The function's own modules come first, then its dependencies, Python's
    library, and what the system's packages installed. -S keeps out site,
    which would cost as much time as everything here.
    """
    app = posix.getcwd()
    v = "%d.%d" % sys.version_info[:2]
    sys.path[:0] = [p for p in (app, app + "/vendor", app + "/.deps") if _is_there(p)]
    sys.path += [
        p
        for p in (
            "%s/lib/python%s/site-packages" % (sys.prefix, v),
            "/usr/local/lib/python%s/dist-packages" % v,
            "/usr/lib/python3/dist-packages",
        )
        if _is_there(p)
    ]


def _is_there(path):
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def _load(spec, conn):
    """Return the handler named by spec, or None when the node was told that there is none."""
    module, _, name = spec.partition(":")
    try:
        return _find(module, name)
    except _LoadError as e:
        _fail(conn, 0, "load", str(e), "")
    except BaseException as e:
        message = "module %s does not load: %s" % (module, _one_line(e))
        if isinstance(e, ModuleNotFoundError):
            message += " (a dependency goes into requirements.txt or a vendor/ folder beside edgefn.yaml)"
        _fail(conn, 0, "load", message, _traceback(e))
    _exit(1)


def _find(module, name):
    try:
        __import__(module)
    except ModuleNotFoundError as e:
        if e.name and (module + ".").startswith(e.name + "."):
            raise _LoadError(_no_module(module)) from None
        raise
    found = mod = sys.modules[module]
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise _LoadError(_no_name(mod, found, module, name, part)) from None
    if not callable(found):
        raise _LoadError(
            "handler %s:%s is not a function but %s, in %s" % (module, name, type(found).__name__, getattr(mod, "__file__", "?"))
        )
    _check_arguments(found, "%s:%s" % (module, name))
    return found


def _no_module(module):
    here = posix.getcwd()
    names = sorted(f[:-3] if f.endswith(".py") else f for f in posix.listdir(here) if f.endswith(".py") or _is_there(here + "/" + f + "/__init__.py"))
    text = "module %s of handler is not there: %s/%s.py does not exist" % (module, here, module.replace(".", "/"))
    if names:
        text += "; there is %s" % ", ".join(names[:10])
    return text + _nearest(module, names)


def _no_name(mod, owner, module, name, part):
    names = [n for n in dir(owner) if callable(getattr(owner, n, None)) and not n.startswith("__")]
    return "function %s of handler %s:%s is not in %s%s" % (
        part,
        module,
        name,
        getattr(mod, "__file__", None) or "module " + module,
        _nearest(part, names),
    )


def _nearest(name, names):
    import difflib

    for near in difflib.get_close_matches(name, names, 1, 0.5) or (names if len(names) == 1 else ()):
        return "; did you mean %s?" % near
    return ""


def _check_arguments(handler, spec):
    """Refuse a function that cannot be called with an event and a context."""
    code = getattr(handler, "__code__", None)
    if code is None or hasattr(handler, "__self__") or hasattr(handler, "__wrapped__"):
        return
    most = code.co_argcount
    least = most - len(handler.__defaults__ or ())
    if least > 2 or (most < 2 and not code.co_flags & 0x04):
        raise _LoadError(
            "handler %s takes %d argument%s, but is called with two: def %s(event, ctx)"
            % (spec, most, "" if most == 1 else "s", handler.__name__)
        )


def _warm(handler):
    """Import, while no event waits, what the handler will ask for."""
    import select

    names = _names(handler)
    for name, modules in (("json", "json"), ("sensor", "json"), ("log", "logging")):
        if name in names and not select.select([_wire.FD], [], [], 0)[0]:
            __import__(modules)
    if getattr(getattr(handler, "__code__", None), "co_flags", 0) & 0x80 and not select.select([_wire.FD], [], [], 0)[0]:
        import asyncio  # noqa: F401


def _names(handler):
    """Return the names that the functions of the handler's module use."""
    names = set()
    for v in [handler, *getattr(handler, "__globals__", {}).values()]:
        code = getattr(v, "__code__", None)
        if code is not None and v.__globals__ is getattr(handler, "__globals__", None):
            names.update(code.co_names)
    return names


def _serve(conn, handler):
    """Handle one event."""
    kind, number, body = conn.read()
    if kind != "event":
        raise RuntimeError("the node sent %s where an event was due" % kind)
    attributes, about = body["event"], body["context"]
    event = edgefn.Event(attributes.pop("data", None) or b"")
    event.attributes = attributes
    conn.limit = about.get("max_frame") or _wire.MAX_FRAME
    link = _wire.Link(conn)
    try:
        value = handler(event, edgefn.Context(link, about, event))
        if hasattr(value, "__await__"):
            value = _await(value)
    except BaseException as e:  # SystemExit too: an exit is not an answer
        _end_of_fork(conn)
        if isinstance(e, (EOFError, BrokenPipeError)) and _is_ours(e):
            raise
        link.end()
        _fail(conn, number, *_failure(e))
        return
    _end_of_fork(conn)
    link.end()
    try:
        data, media = (None, "") if value is None else edgefn._payload(value, "result")
    except TypeError as e:
        _fail(conn, number, "result", str(e), "")
        return
    try:
        _say(conn, "result", number, {"data": data, "datacontenttype": media})
    except ValueError as e:
        _fail(conn, number, "result", str(e), "")


def _await(value):
    import asyncio

    async def wait():
        return await value

    return asyncio.run(wait())


def _end_of_fork(conn):
    """End a forked process that returned from the handler: it has no answer to give."""
    if posix.getpid() != conn.pid:
        _exit(0)


def _is_ours(e):
    """Tell whether e came from the connection and not from the author's own files."""
    tb = e.__traceback__
    while tb.tb_next:
        tb = tb.tb_next
    return tb.tb_frame.f_code.co_filename == _wire.__file__


def _say(conn, kind, number, body):
    # What was printed belongs to this invocation.
    _flush()
    conn.write(kind, number, body)


def _fail(conn, number, kind, message, detail, retry_after_ms=0):
    body = {"kind": kind, "message": _wire.clip(message, 2000), "detail": _wire.clip(detail)}
    if retry_after_ms:
        body["retry_after_ms"] = retry_after_ms
    _say(conn, "failure", number, body)


def _failure(e):
    """Return what is told of an exception that left the handler: kind, message, detail, time to the next attempt."""
    if isinstance(e, edgefn.Rejected):
        # Where it was raised says little; what it was raised for may say much.
        caused = e.__cause__ or (e.__context__ and not e.__suppress_context__)
        return "rejected", _text_of(e), _traceback(e) if caused else "", 0
    if isinstance(e, edgefn.RetryAfter):
        try:
            after = edgefn._milliseconds(getattr(e, "after", None))
        except (TypeError, ValueError) as wrong:  # the author's own subclass
            return "raised", "%s: %s" % (_one_line(e), wrong), _traceback(e), 0
        return "raised", _text_of(e), _traceback(e), after
    return "raised", _one_line(e), _traceback(e), 0


def _text_of(e):
    try:
        return " ".join(str(e).split())
    except Exception as again:  # noqa: BLE001
        return "(its text raised %s)" % type(again).__name__


def _one_line(e):
    text, name = _text_of(e), type(e).__name__
    return "%s: %s" % (name, text) if text else name


def _traceback(e):
    """Return the traceback of e without edgefn's own frames."""
    seen = set()
    todo = [e]
    while todo:
        x = todo.pop()
        if x is None or id(x) in seen:
            continue
        seen.add(id(x))
        x.__traceback__ = _trim(x.__traceback__)
        todo += [x.__cause__, x.__context__]
    try:
        import traceback

        return "".join(traceback.format_exception(type(e), e, e.__traceback__))
    except Exception as again:  # noqa: BLE001 - an error is told even where it cannot be shown
        return "(its traceback cannot be shown: %s)" % _one_line(again)


def _trim(tb):
    """Return tb from where the author's code was called to where it last was."""
    first, last = tb, None
    while tb is not None:
        name = tb.tb_frame.f_code.co_filename
        if name == __file__:
            first = tb.tb_next
        if not name.startswith(_HERE):
            last = tb
        tb = tb.tb_next
    if last is not None:
        last.tb_next = None
    return first


class _LoggingFinder:
    """Sets logging up for the function's log at the moment that it is imported.

    logging takes as long to import as the rest of Python to start, so it is
    not imported for functions that do not use it.
    """

    def __init__(self, conn):
        self.conn = conn

    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            if hasattr(module, "Handler"):  # and not a module of the author's of that name
                _set_logging(module, self.conn)

        spec.loader.exec_module = exec_module
        return spec


def _set_logging(logging, conn):
    class Handler(logging.Handler):
        def emit(self, record):
            try:
                text = self.format(record)
                if record.name not in ("root", "edgefn"):
                    text = record.name + ": " + text
                n = record.levelno
                conn.log("error" if n >= 40 else "warning" if n >= 30 else "info" if n >= 20 else "debug", text)
            except Exception:  # noqa: BLE001 - as logging's own handlers do
                self.handleError(record)

    logging.root.addHandler(Handler())
    logging.root.setLevel(logging.INFO)
    logging.getLogger("edgefn").setLevel(logging.DEBUG)
