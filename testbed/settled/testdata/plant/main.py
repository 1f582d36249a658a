import journal


def handle(event, ctx):
    e = event.json()
    journal.take(e, ctx)
    e["pad"] = "x" * e.get("big", 0)
    return e
