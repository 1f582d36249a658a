// CommonJS: there is no package.json that says otherwise.
let seen = 0;
let late;

exports.handle = async (event, ctx) => {
  seen++;
  switch (event.type) {
    case "raise":
      throw new Error("it broke");
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
