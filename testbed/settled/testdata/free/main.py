def handle(event, ctx):
    e = event.json()
    key = "c/%d/%d" % (e["subject"], e["seq"])
    ctx.state[key] = ctx.state.get(key, b"") + b"x"
