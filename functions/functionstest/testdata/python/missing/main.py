def handle(event, ctx):
    return None
