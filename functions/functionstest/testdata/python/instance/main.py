import threading

SEEN = 0
GO = threading.Event()
ERRORS = []


def later(ctx):
    GO.wait()
    try:
        ctx.state["late"] = b"x"
    except Exception as e:
        ERRORS.append(e)


async def handle(event, ctx):
    global SEEN, LATE
    SEEN += 1
    if event.type == "raise":
        raise ValueError("it broke")
    if event.type == "reject":
        raise ctx.reject("no zone of that name")
    if event.type == "retry":
        raise ctx.retry("the valve is moving", after=30)
    if event.type == "late":
        LATE = threading.Thread(target=later, args=(ctx,))
        LATE.start()
        return None
    if event.type == "late-error":
        GO.set()
        LATE.join()
        return str(ERRORS[0])
    return str(SEEN)
