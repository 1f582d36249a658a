"""python3 -m unittest, in this folder."""

import types
import unittest

import doorbell


class Ctx:
    """What the handler uses of its context."""

    def __init__(self):
        self.pulses, self.warnings = [], []
        self.log = types.SimpleNamespace(warning=lambda text, *args: self.warnings.append(text % args))

    def line(self, name):
        return types.SimpleNamespace(pulse=lambda ms: self.pulses.append((name, ms)))


def press(lost):
    return types.SimpleNamespace(json=lambda: {"on": True, "edge": "rising", "line_seq": 1, "lost": lost})


class Doorbell(unittest.TestCase):
    def test_each_press_rings(self):
        ctx = Ctx()
        doorbell.handle(press(0), ctx)
        doorbell.handle(press(None), ctx)  # where loss cannot be seen
        self.assertEqual(ctx.pulses, [("relay", 500), ("relay", 500)])
        self.assertEqual(ctx.warnings, [])

    def test_what_was_lost_is_told(self):
        ctx = Ctx()
        doorbell.handle(press(2), ctx)
        self.assertEqual(ctx.pulses, [("relay", 500)])
        self.assertEqual(ctx.warnings, ["2 edges before this one were lost"])


if __name__ == "__main__":
    unittest.main()
