// Shows the router's OpenAPI document, with nothing from elsewhere.

import { ask } from "./api.js";
import { h, one, put } from "./dom.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

async function show() {
  const { paths, components } = await (await ask("../openapi.json")).json();
  const groups = new Map([["For clients", []], ["For operators", []]]);
  for (const [path, operations] of Object.entries(paths)) {
    for (const method of METHODS.filter((name) => name in operations)) {
      const group = path.startsWith("/admin") ? "For operators" : "For clients";
      groups.get(group).push(described(path, method, operations[method], components?.schemas ?? {}));
    }
  }
  for (const [name, rows] of groups) one("#api").append(h("section", {}, h("h2", {}, name), ...rows));
}

function described(path, method, operation, schemas) {
  const parameters = (operation.parameters ?? []).map((one) => `${one.name} (${one.in}${one.required ? ", required" : ""})`);
  const bodies = Object.entries(operation.requestBody?.content ?? {});
  const answers = Object.entries(operation.responses ?? {});
  return h(
    "details",
    {},
    h("summary", {}, h("span", { class: "method" }, method.toUpperCase()), h("code", {}, path), ` ${operation.summary ?? ""}`),
    operation.description && h("p", {}, operation.description),
    parameters.length > 0 && h("p", {}, `Parameters: ${parameters.join("; ")}`),
    bodies.map(([type, body]) => schema(`Body, ${type}`, body.schema, schemas)),
    h("ul", {}, answers.map(([status, answer]) => h("li", {}, `${status}: ${answer.description}`))),
    answers.map(([status, answer]) => schema(`Answer ${status}`, answer.content?.["application/json"]?.schema, schemas)),
  );
}

/** A schema as it is written, with the one that it names; none where it says nothing. */
function schema(title, value, schemas) {
  const name = value?.$ref?.split("/").at(-1);
  const shown = name ? schemas[name] : value;
  if (!shown || name === "ErrorAnswer" || Object.keys(shown).length === 0) return null;
  return h("details", {}, h("summary", {}, name ? `${title}: ${name}` : title), h("pre", {}, JSON.stringify(shown, null, 2)));
}

show().catch((error) => put(one("#problem"), `${error.message} Where a token is asked for, give it on the dashboard first.`));
