"""python3 -m unittest, in this folder."""

import json
import logging
import types
import unittest

import thermostat


class Ctx:
    """What the handler uses of its context."""

    def __init__(self):
        self.state, self.published, self.log = {}, [], logging.getLogger("test")

    def publish(self, topic, data):
        self.published.append((topic, data))


def reading(celsius, zone="north"):
    return types.SimpleNamespace(subject=f"greenhouse/{zone}/temperature", json=lambda: {"celsius": celsius})


class Thermostat(unittest.TestCase):
    def test_fan(self):
        ctx = Ctx()
        for celsius in (20, 30, 35, 36):
            thermostat.handle(reading(celsius), ctx)
        self.assertEqual([d["fan"] for _, d in ctx.published], ["off", "off", "on", "on"])
        self.assertEqual(ctx.published[-1][0], "greenhouse/north/fan")

    def test_zones_are_apart(self):
        ctx = Ctx()
        thermostat.handle(reading(40, "north"), ctx)
        thermostat.handle(reading(10, "south"), ctx)
        self.assertEqual(ctx.published[-1], ("greenhouse/south/fan", {"fan": "off", "average": 10.0}))
        self.assertEqual(json.loads(ctx.state["north"]), [40])


if __name__ == "__main__":
    unittest.main()
