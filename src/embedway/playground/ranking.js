/** The items in the order of their likeness to a query. */

import { element, firstOf, fixed } from "./dom.js";
import { cosine, largest } from "./vectors.js";

const MAX_SHOWN = 100;

/** → nodes */
export function ranking(items, vectors, query) {
  const scores = vectors.map((vector) => cosine(vector, query));
  const order = largest(scores, MAX_SHOWN);
  const best = Math.max(scores[order[0]], 0);
  const list = element("ol", { class: "ranking", role: "list" }, ...order.map((i) => entry(items[i], scores[i], best)));
  return items.length > MAX_SHOWN ? [list, firstOf(MAX_SHOWN, items.length)] : [list];
}

function entry(item, score, best) {
  const bar = element("span", { class: "score-bar", "aria-hidden": true });
  bar.style.setProperty("--share", best > 0 ? Math.max(score, 0) / best : 0);
  const what = item.image ? element("img", { src: item.image, alt: item.label }) : element("span", {}, item.label);
  return element("li", {}, element("span", { class: "score" }, fixed(score, 4)), bar, what);
}
