/** The three views of an answer: the heat map, the map, and the ranking of a search. */

import { byId, emptyNote, firstOf } from "./dom.js";
import { heatmap } from "./heatmap.js";
import { ranking } from "./ranking.js";
import { scatter } from "./scatter.js";
import { cosineMatrix } from "./vectors.js";

const MAX_ON_MAP = 300;

/** `answers`: one for each request of the view. */
export const VIEWS = {
  compare(items, [{ vectors }]) {
    byId("view-compare").replaceChildren(...heatmap(items, cosineMatrix(vectors)));
  },
  map(items, [{ vectors }]) {
    const shown = vectors.slice(0, MAX_ON_MAP);
    scatter(byId("view-map"), items.slice(0, MAX_ON_MAP), shown, cosineMatrix(shown));
    if (items.length > MAX_ON_MAP) byId("view-map").append(firstOf(MAX_ON_MAP, items.length));
  },
  search(items, [documents, query]) {
    const waiting = () => [emptyNote(`${items.length} items are embedded.`, "Write a query to search them.")];
    byId("ranking").replaceChildren(...(query ? ranking(items, documents.vectors, query.vectors[0]) : waiting()));
  },
};
