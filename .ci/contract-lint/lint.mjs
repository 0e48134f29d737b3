// Lints the OpenAPI document that is named, by the rules of redocly.yaml, and fails for
// whatever is found. The library and not Redocly's command, which brings a web server
// and a renderer along.
import { fileURLToPath } from "node:url";
import { formatProblems, getTotals, lint, loadConfig } from "@redocly/openapi-core";

const [document] = process.argv.slice(2);
const config = await loadConfig({ configPath: fileURLToPath(new URL("redocly.yaml", import.meta.url)) });
const problems = await lint({ ref: document, config });
if (problems.length > 0) {
  formatProblems(problems, { format: "codeframe", totals: getTotals(problems), version: "1.34.6", maxProblems: 100 });
  process.exit(1);
}
console.log(`${document} is sound.`);
