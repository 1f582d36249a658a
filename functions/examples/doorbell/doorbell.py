"""Rings the bell on the relay when the button at the door is pressed."""

RING = 500  # ms


def handle(event, ctx):
    edge = event.json()
    if edge["lost"]:
        ctx.log.warning("%d edges before this one were lost", edge["lost"])
    ctx.line("relay").pulse(RING)
