/** What the page says of a call: the server's error as it came, the figures, and what a screen reader is told. */

import { byId, element } from "./dom.js";

export function showError(error) {
  const facts = [error.status && `status ${error.status}`, error.code, error.requestId && `request ${error.requestId}`];
  const known = facts.filter(Boolean).join(" · ");
  byId("alert").replaceChildren(
    element("p", {}, error.message),
    ...(known ? [element("p", { class: "hint" }, known)] : []),
  );
  byId("alert").hidden = false;
}

export function clearError() {
  byId("alert").hidden = true;
  byId("alert").replaceChildren();
}

/** `asked`: `[{answer, count}]`, the calls of one click, one after the other. */
export function showFigures(asked) {
  const total = (figure) => asked.reduce((sum, call) => sum + figure(call), 0);
  const [milliseconds, items] = [total(({ answer }) => answer.milliseconds), total(({ count }) => count)];
  const time = milliseconds < 1000 ? `${milliseconds.toFixed(1)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
  const figures = {
    time,
    tokens: total(({ answer }) => answer.tokens).toLocaleString("en"),
    items: items.toLocaleString("en"),
    rate: Math.round((1000 * items) / milliseconds).toLocaleString("en"),
    dimensions: asked[0].answer.vectors[0].length.toLocaleString("en"),
  };
  for (const [name, value] of Object.entries(figures)) byId(`stat-${name}`).textContent = value;
  byId("status").textContent = `${figures.items} ${items === 1 ? "item" : "items"} embedded in ${time}`;
}
