import journal


def handle(event, ctx):
    journal.take(event.json(), ctx)
