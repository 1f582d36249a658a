export function handle() {}
