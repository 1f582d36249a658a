"""NAME: called once per event, each time in a fresh process."""


def handle(event, ctx):
    ctx.log.info("%s bytes on %s", len(event.data), event.subject)
    count = int(ctx.state.get("count", b"0")) + 1
    ctx.state["count"] = str(count)
    return {"count": count, "got": event.text()}
