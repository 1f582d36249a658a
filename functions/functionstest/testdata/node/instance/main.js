// CommonJS: there is no package.json that says otherwise.
let seen = 0;
let late;

exports.handle = async (event, ctx) => {
  seen++;
  switch (event.type) {
    case "raise":
      throw new Error("it broke");
    case "reject":
      throw ctx.reject("no zone of that name");
    case "retry":
      throw ctx.retry("the valve is moving", { after: 30 });
    case "late":
      late = ctx;
      return undefined;
    case "late-error":
      try {
        await late.state.put("late", "x");
        return "not refused";
      } catch (e) {
        return e.message;
      }
  }
  return String(seen);
};
