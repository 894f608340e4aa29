/** What the server serves, and the key that it may want first. */

import { byId, element } from "./dom.js";
import { clearError, showError } from "./messages.js";
import { apiKey, listModels, modelInfo } from "./server.js";

/**
 * Calls `onKnown(info)` with the answer of /model_info once the server has told, at once or after a key is typed;
 * `onChoice()` as another name is chosen, and `onOther(info)` once the server has told of the model that this is.
 */
export function watchModel({ onKnown, onChoice, onOther }) {
  const load = () => ask(onKnown);
  byId("model").addEventListener("change", () => {
    onChoice();
    learn(onOther);
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    apiKey.set(byId("key").value.trim());
    load();
  });
  byId("forget-key").addEventListener("click", () => {
    apiKey.forget();
    location.reload();
  });
  load();
}

export function askForKey() {
  byId("key-form").hidden = false;
  byId("key").focus();
}

async function ask(onKnown) {
  clearError();
  try {
    const [models, info] = await Promise.all([listModels(), modelInfo()]);
    offerModels(models);
    showFacts(info);
    byId("key-form").hidden = true;
    byId("key").value = "";
    byId("forget-key").hidden = byId("docs-link").hidden = false;
    byId(apiKey.get() ? "docs-link" : "forget-key").hidden = true; // a link sends no key
    onKnown(info);
  } catch (error) {
    byId("model-facts").textContent = "The server has not told yet what it serves.";
    if (error.status !== 401) return showError(error);
    if (apiKey.get()) showError(error);
    apiKey.forget();
    askForKey();
  }
}

async function learn(onOther) {
  const name = byId("model").value;
  clearError();
  try {
    const info = await modelInfo(name);
    if (byId("model").value !== name) return; // another one was chosen meanwhile
    showFacts(info);
    onOther(info);
  } catch (error) {
    showError(error);
  }
}

function offerModels(models) {
  const options = (cards) => cards.map(({ id }) => element("option", { value: id }, id));
  const adapters = models.filter((card) => card.parent !== null);
  const groups = adapters.length ? [element("optgroup", { label: "Adapters" }, ...options(adapters))] : [];
  byId("model").replaceChildren(...options(models.filter((card) => card.parent === null)), ...groups);
  byId("model").disabled = false;
}

function showFacts({ embedding, max_model_len: length, has_image_understanding: readsImages }) {
  const facts = [
    `${embedding.dimension} dimensions`,
    `${length.toLocaleString("en")} tokens an item`,
    embedding.pooling.length ? `${embedding.pooling.join(" + ")} pooling` : null,
    readsImages ? "text and images" : "text",
  ];
  byId("model-facts").textContent = facts.filter(Boolean).join("  ·  ");
}
