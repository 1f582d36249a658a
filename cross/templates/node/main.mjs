// NAME: called once per event, each time in a fresh process.
export async function handle(event, ctx) {
  ctx.log.info(`${event.data.length} bytes on ${event.subject}`);
  const count = Number((await ctx.state.get("count")) ?? 0) + 1;
  await ctx.state.put("count", String(count));
  return { count, got: event.text() };
}
