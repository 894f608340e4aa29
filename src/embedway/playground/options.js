/** The options of a request, and which of them the served model can do. */

import { byId, element } from "./dom.js";

const FIELDS = ["prompt", "dimensions", "encoding", "dtype", "truncate", "normalize"];
const AUTOMATIC = "automatic";
const NONE = "none";
const NAMED = "name:";

export function watchOptions(onChange) {
  for (const id of FIELDS) {
    byId(id).addEventListener("input", () => {
      showCount();
      onChange();
    });
  }
}

/** `info` is the answer of /model_info. */
export function offerOptions({ embedding }) {
  const prompts = Object.keys(embedding.prompts);
  const choice = (value, text) => element("option", { value }, text);
  byId("prompt").replaceChildren(
    choice(AUTOMATIC, prompts.length ? "query and document in Search" : "none"),
    ...(prompts.length ? [choice(NONE, "none"), ...prompts.map((name) => choice(NAMED + name, name))] : []),
  );
  byId("prompt").disabled = prompts.length === 0;
  byId("prompt-note").textContent = prompts.length ? "" : "This model declares no prompts.";
  offerDimensions(embedding);
  showCount();
}

function offerDimensions({ dimension, supports_dimensions: isSupported, matryoshka_dimensions: lengths }) {
  const field = byId("dimensions");
  Object.assign(field, { disabled: !isSupported, max: dimension, placeholder: String(dimension) });
  byId("lengths").replaceChildren(...lengths.map((value) => element("option", { value })));
  const known = lengths.length > 8 ? `${lengths[0]} to ${dimension}` : lengths.join(", ");
  const supported = known ? `Declared: ${known}.` : `1 to ${dimension}.`;
  byId("dimensions-note").textContent = isSupported ? supported : "This model declares no shorter lengths.";
}

/** The fields of a request but `model` and `input`. `role` is "query" or "document" in a search, else null. */
export function optionFields(role) {
  const fields = { encoding_format: byId("encoding").value, ...promptFields(byId("prompt").value, role) };
  if (byId("dimensions").value) fields.dimensions = Number(byId("dimensions").value);
  if (byId("dtype").value) fields.output_dtype = byId("dtype").value;
  if (byId("truncate").value) fields.truncate = byId("truncate").value;
  if (!byId("normalize").checked) fields.normalize = false;
  return fields;
}

function promptFields(chosen, role) {
  if (chosen === NONE) return { prompt: "" };
  if (chosen.startsWith(NAMED)) return { prompt_name: chosen.slice(NAMED.length) };
  return role && !byId("prompt").disabled ? { input_type: role } : {};
}

function showCount() {
  const { encoding_format: encoding, ...others } = optionFields(null);
  const count = Object.keys(others).length + (encoding !== "float");
  byId("options-set").textContent = count ? `${count} set` : "";
}
