// GitHub's packages import JSON without saying so, which Node refuses.
import { register } from "node:module";

const hook = `export async function load(url, context, next) {
  return url.endsWith(".json") ? next(url, { ...context, importAttributes: { type: "json" } }) : next(url, context);
}`;
register(`data:text/javascript,${encodeURIComponent(hook)}`, import.meta.url);
