"""Turns a zone's fan on and off by the average of its last readings."""

import json
import os

ON_ABOVE = float(os.environ.get("ON_ABOVE", "28"))
OFF_BELOW = float(os.environ.get("OFF_BELOW", "26"))
KEPT = 3  # readings in the average


def handle(event, ctx):
    zone = event.subject.split("/")[1]
    readings = json.loads(ctx.state.get(zone, b"[]"))
    readings = (readings + [event.json()["celsius"]])[-KEPT:]
    ctx.state[zone] = json.dumps(readings)

    average = sum(readings) / len(readings)
    if average > ON_ABOVE:
        fan = "on"
    elif average < OFF_BELOW:
        fan = "off"
    else:
        fan = "as it is"
    ctx.log.info("%s: %.1f on average, fan %s", zone, average, fan)
    ctx.publish(f"greenhouse/{zone}/fan", {"fan": fan, "average": round(average, 1)})
