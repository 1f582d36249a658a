import time

import journal


def handle(event, ctx):
    e = event.json()
    journal.take(e, ctx)
    if e.get("bad"):
        raise ValueError("on purpose, for ever")
    if time.time() < e.get("until", 0):
        raise ValueError("on purpose, at first")
