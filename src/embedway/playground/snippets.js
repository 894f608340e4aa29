/** Requests as code that sends the same: curl, Python and JavaScript. `requests`: `[{name, body}]`. */

const OPENAI_FIELDS = new Set(["model", "input", "encoding_format", "dimensions", "user"]);
const KEY_VARIABLE = "EMBEDWAY_API_KEY";

export const LANGUAGES = { curl, python, javascript };

/** The body stands in a quoted here-document, in which the shell reads nothing. */
function curl(requests, base, needsKey) {
  const options = [
    ...(needsKey ? [`-H "Authorization: Bearer $${KEY_VARIABLE}"`] : []),
    "-H 'Content-Type: application/json'",
    "-d @- <<'JSON'",
  ];
  const command = [`curl ${base}/embeddings`, ...options].join(" \\\n  ");
  return requests.map(({ body }) => `${command}\n${JSON.stringify(body, null, 2)}\nJSON`).join("\n\n");
}

function python(requests, base, needsKey) {
  const key = needsKey ? `os.environ["${KEY_VARIABLE}"]` : '"none"';
  const head = [
    ...(needsKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key})`,
  ];
  return [...head, ...requests.flatMap(({ name, body }) => ["", ...pythonCall(name, body)])].join("\n");
}

/** Fields that OpenAI's Python client does not know go into `extra_body`. */
function pythonCall(name, body) {
  const own = Object.entries(body).filter(([field]) => OPENAI_FIELDS.has(field));
  const extra = Object.fromEntries(Object.entries(body).filter(([field]) => !OPENAI_FIELDS.has(field)));
  const lines = own.map(([field, value]) => `    ${field}=${pythonValue(value, 1)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${pythonValue(extra, 1)},`);
  return [
    `${name} = client.embeddings.create(`,
    ...lines,
    ")",
    `print(len(${name}.data), "vectors,", ${name}.usage.total_tokens, "tokens")`,
  ];
}

/** JSON is Python but for three words; a string's escapes mean the same in both. */
function pythonValue(value, depth) {
  const [inner, outer] = ["    ".repeat(depth + 1), "    ".repeat(depth)];
  const block = (open, lines, close) =>
    `${open}\n${lines.map((line) => `${inner}${line},\n`).join("")}${outer}${close}`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value))
    return block(
      "[",
      value.map((one) => pythonValue(one, depth + 1)),
      "]",
    );
  if (typeof value !== "object") return JSON.stringify(value);
  return block(
    "{",
    Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${pythonValue(one, depth + 1)}`),
    "}",
  );
}

function javascript(requests, base, needsKey) {
  const key = needsKey ? `process.env.${KEY_VARIABLE}` : '"none"';
  const calls = requests.flatMap(({ name, body }) => [
    "",
    `const ${name} = await client.embeddings.create(${JSON.stringify(body, null, 2)});`,
    `console.log(${name}.data.length, "vectors,", ${name}.usage.total_tokens, "tokens");`,
  ]);
  return [
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: ${key} });`,
    ...calls,
  ].join("\n");
}
