// Draws /openapi.json: every route with its parameters, answers and a curl command.
import { ask, byId, make, say } from "./common.js";

let schemas = {};

async function start() {
  try {
    const description = await ask("/openapi.json");
    schemas = description.components.schemas;
    const about = make("section");
    about.append(...description.info.description.split("\n").filter(Boolean).map((line) => make("p", "muted", line.replaceAll("`", ""))));
    const routes = Object.entries(description.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, route]) => drawRoute(path, method, route)));
    byId("main").replaceChildren(about, ...routes, ...Object.entries(schemas).map(drawSchema));
  } catch (error) {
    say(error.message, true);
  }
}

function drawRoute(path, method, route) {
  const section = make("section");
  const title = make("h1");
  title.append(make("span", "method", method.toUpperCase()), ` ${path}`);
  section.append(title, make("p", "", route.summary ?? ""));
  const body = route.requestBody?.content["application/json"].schema;
  section.append(make("pre", "", curl(path, body && example(resolve(body)))));
  const rows = (route.parameters ?? []).map((one) => [`?${one.name}=`, one.description ?? ""]);
  for (const [status, answer] of Object.entries(route.responses)) {
    const name = nameOf(answer.content?.["application/json"]?.schema);
    rows.push([status, answer.description + (name ? ` → ${name}` : "")]);
  }
  if (body) rows.unshift(["body", nameOf(body)]);
  section.append(table(rows));
  return section;
}

function curl(path, body) {
  const address = `${location.origin}${path}`;
  return body ? `curl --json '${JSON.stringify(body)}' ${address}` : `curl ${address}`;
}

function drawSchema([name, schema]) {
  const section = make("section");
  section.append(make("h1", "", name), make("p", "muted", (schema.description ?? "").split("\n\n")[0]));
  const rows = Object.entries(schema.properties ?? {}).map(([field, type]) =>
    [field, words(type) + (schema.required?.includes(field) ? "" : `, default ${JSON.stringify(type.default)}`)]);
  section.append(table(rows));
  return section;
}

function words(type) {
  if (type.$ref) return nameOf(type);
  if (type.anyOf) return type.anyOf.map(words).join(" or ");
  if (type.enum) return type.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (type.type === "array") return `list of ${type.prefixItems ? "pairs" : words(type.items ?? {})}${limits(type)}`;
  return (type.type ?? "anything") + limits(type);
}

function limits(type) {
  const names = { minimum: "at least", maximum: "at most", minItems: "at least", maxItems: "at most", maxLength: "length at most" };
  const given = Object.entries(names).filter(([name]) => name in type).map(([name, word]) => `${word} ${type[name]}`);
  return given.length ? ` (${given.join(", ")})` : "";
}

const nameOf = (schema) => (schema?.$ref ?? "").split("/").pop();
const resolve = (schema) => schemas[nameOf(schema)] ?? schema;

function example(schema) {
  const given = Object.entries(schema.properties ?? {}).filter(([, type]) => type.examples);
  return Object.fromEntries(given.map(([name, type]) => [name, type.examples[0]]));
}

function table(rows) {
  const drawn = make("table");
  for (const [name, text] of rows) {
    const row = make("tr");
    row.append(make("th", "", name, { scope: "row" }), make("td", "", text));
    drawn.append(row);
  }
  return drawn;
}

start();
