"""The order in which a function took events, kept in its state.

A key holds some hundred numbers of a subject, so that a write stays small.
"""

SPAN = 256


def take(event, ctx):
    subject, seq = event["subject"], event["seq"]
    counter = "n/%d" % subject
    n = int(ctx.state.get(counter, b"0"))
    span = "j/%d/%06d" % (subject, n // SPAN)
    ctx.state[span] = ctx.state.get(span, b"") + b"%d " % seq
    ctx.state[counter] = b"%d" % (n + 1)
