// Diagnostics of GitHub's own language service, a line each; exit code 1 where there is one.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import "./json.mjs";

const { validate } = await import("@actions/languageservice");
const { TextDocument } = await import("vscode-languageserver-textdocument");

let found = 0;
for (const path of process.argv.slice(2)) {
  const uri = pathToFileURL(path).href;
  const document = TextDocument.create(uri, "yaml", 1, readFileSync(path, "utf8"));
  for (const { message, range } of await validate(document)) {
    found += 1;
    console.log(`${path}:${range.start.line + 1}: ${message}`);
  }
}
process.exit(found ? 1 : 0);
