// Shows /api/v1/openapi.json as a readable list. Text goes in through textContent only.

const VERBS = ["get", "head", "post", "put", "patch", "delete"];

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const nameOf = (schema) => schema?.$ref?.split("/").pop() ?? (Array.isArray(schema?.type) ? schema.type.join(" or ") : schema?.type) ?? "";

function listOf(title, entries) {
  if (entries.length === 0) return [];
  const list = make("ul");
  list.append(...entries.map((entry) => make("li", "", entry)));
  return [make("h3", "", title), list];
}

function bodyText(content) {
  return Object.entries(content ?? {}).map(([type, body]) => [type, nameOf(body.schema)].filter(Boolean).join(", ")).join("; ");
}

function operation(path, verb, described) {
  const box = make("details", "op");
  const head = make("summary");
  head.append(make("span", "verb", verb.toUpperCase()), make("code", "", path), make("span", "quiet", ` ${described.summary ?? ""}`));
  box.append(head);
  if (described.description) box.append(make("p", "description", described.description));
  const parameters = (described.parameters ?? []).map((p) => `${p.name} (${p.in}${p.required ? "" : ", optional"}): ${p.description ?? ""}`);
  const body = described.requestBody ? [bodyText(described.requestBody.content)] : [];
  const answers = Object.entries(described.responses ?? {}).map(([status, answer]) =>
    [status, answer.description, bodyText(answer.content)].filter(Boolean).join(" · "));
  box.append(...listOf("Parameters", parameters), ...listOf("Body", body), ...listOf("Answers", answers));
  return box;
}

function schemas(components) {
  return Object.entries(components?.schemas ?? {}).map(([name, schema]) => {
    const box = make("details", "op");
    box.append(make("summary", "", name), make("pre", "", JSON.stringify(schema, null, 2)));
    return box;
  });
}

function render(api) {
  document.getElementById("about").textContent = `${api.info.title} ${api.info.version}. ${api.info.description ?? ""}`;
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths ?? {})) {
    for (const verb of VERBS.filter((verb) => item[verb])) {
      const tag = item[verb].tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), operation(path, verb, item[verb])]);
    }
  }
  const out = document.getElementById("operations");
  for (const [tag, boxes] of groups) out.append(make("h2", "", tag), ...boxes);
  out.append(make("h2", "", "schemas"), ...schemas(api.components));
}

try {
  render(await (await fetch("/api/v1/openapi.json")).json());
} catch (error) {
  document.getElementById("about").textContent = `The description can't be loaded: ${error.message}`;
}
