// Raises an alarm when a sensor on the floor gets wet, and clears it when it
// is dry again. A result of undefined sends nothing.
const WET = 80; // percent

export async function handle(event, ctx) {
  const zone = event.subject.split("/")[1];
  const wet = event.json().percent >= WET;
  const before = await ctx.state.get(zone);
  if ((before !== undefined && before !== null) === wet) return undefined;
  if (wet) await ctx.state.put(zone, event.time ? String(event.time) : "now");
  else await ctx.state.delete(zone);
  return { zone, leak: wet };
}
