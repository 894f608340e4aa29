/** The map: items as points in the plane of their two principal components, each joined to its nearest neighbour. */

import { element, fixed, svgElement } from "./dom.js";
import { shortLabel } from "./items.js";
import { placeLabels } from "./labels.js";
import { project } from "./projection.js";
import { largest } from "./vectors.js";

const MARGIN = { x: 36, y: 30 };
const RADIUS = 6;
const THUMBNAIL = 40;
const NEAREST = 3;
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** Draws into `place`, and anew when its width changes. `matrix` [n, n] has the cosines of the vectors. */
export function scatter(place, items, vectors, matrix) {
  const { points, shares } = project(vectors);
  const canvas = element("div", { class: "map" });
  const detail = element("p", { class: "detail" }, "Point at an item, or move with the arrow keys.");
  const shown = shares.map((share) => `${Math.round(100 * share)}%`);
  const hint = `Across ${shown[0]}, up ${shown[1]} of the variance (principal components). Lines join nearest neighbours.`;
  place.replaceChildren(canvas, detail, element("p", { class: "hint" }, hint));
  const show = (i) => detail.replaceChildren(element("strong", {}, items[i].label), neighboursText(i, items, matrix));
  let width = 0;
  new ResizeObserver(() => {
    if (!canvas.clientWidth || canvas.clientWidth === width) return;
    width = canvas.clientWidth;
    const size = { width, height: Math.round(Math.min(Math.max(width * 0.6, 300), 520)) };
    canvas.replaceChildren(drawing(items, fitted(points, size), matrix, size, show));
  }).observe(canvas);
}

function neighboursText(i, items, matrix) {
  const names = largest(matrix[i], NEAREST, i).map((j) => `${shortLabel(items[j], 40)} (${fixed(matrix[i][j], 2)})`);
  return names.length ? ` Nearest: ${names.join(" · ")}` : "";
}

/** Points → pixels, with the same scale for both axes. */
function fitted(points, { width, height }) {
  const [low, high] = [Math.min, Math.max].map((pick) => [0, 1].map((k) => pick(...points.map((point) => point[k]))));
  const room = [width - 2 * MARGIN.x, height - 2 * MARGIN.y];
  const scales = [0, 1].map((k) => room[k] / (high[k] - low[k] || 1));
  const scale = Math.min(Math.min(...scales) * 1.25, scales[0]);
  const scaleY = Math.min(scale, scales[1]);
  const middle = [0, 1].map((k) => (low[k] + high[k]) / 2);
  return points.map(([x, y]) => [width / 2 + (x - middle[0]) * scale, height / 2 - (y - middle[1]) * scaleY]);
}

function drawing(items, places, matrix, { width, height }, show) {
  const links = svgElement("g", { class: "links" });
  const link = (i, j) => line(places[i], places[j], matrix[i][j]);
  links.append(...pairsOf(matrix).map(([i, j]) => link(i, j)));
  const rays = svgElement("g", { class: "rays" });
  const nodes = items.map((item, i) => node(item, places[i], neighboursText(i, items, matrix)));
  const labels = placeLabels(items, places, { width, height }, RADIUS);
  const texts = labels.map((label) => svgElement("text", { x: label.x, y: label.y, "aria-hidden": true }, label.text));
  const group = svgElement("g", { role: "list", "aria-label": "Items on the map" }, ...nodes);
  const front = svgElement("g", { class: "front", "aria-hidden": true });
  makeNavigable(nodes, (i) => {
    front.replaceChildren(copyOf(nodes[i])); // another may lie over it
    rays.replaceChildren(...largest(matrix[i], NEAREST, i).map((j) => link(i, j)));
    show(i);
  });
  return svgElement("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, links, rays, ...texts, group, front);
}

/** Each item with its nearest neighbour, every pair once. */
function pairsOf(matrix) {
  const pairs = matrix.flatMap((row, i) => largest(row, 1, i).map((j) => [Math.min(i, j), Math.max(i, j)]));
  return [...new Map(pairs.map((pair) => [pair.join(), pair])).values()];
}

/** The more alike its ends, the stronger. */
const line = ([x1, y1], [x2, y2], cosine) =>
  svgElement("line", { x1, y1, x2, y2, "stroke-opacity": Math.min(Math.max(1.2 * cosine, 0.3), 1) });

function node(item, [x, y], neighbours) {
  const attributes = { class: "node", role: "listitem", tabindex: -1, "aria-label": `${item.label}.${neighbours}` };
  if (!item.image) return svgElement("circle", { ...attributes, cx: x, cy: y, r: RADIUS });
  const corner = { x: x - THUMBNAIL / 2, y: y - THUMBNAIL / 2, width: THUMBNAIL, height: THUMBNAIL };
  const frame = svgElement("rect", { ...corner, rx: 4 });
  return svgElement("g", attributes, svgElement("image", { ...corner, href: item.image }), frame);
}

function copyOf(made) {
  const copy = made.cloneNode(true);
  for (const name of ["role", "tabindex", "aria-label"]) copy.removeAttribute(name);
  return copy;
}

function makeNavigable(nodes, onNode) {
  nodes[0].setAttribute("tabindex", 0);
  nodes.forEach((made, i) => {
    made.addEventListener("pointerenter", () => onNode(i));
    made.addEventListener("focus", () => {
      nodes.forEach((other) => other.setAttribute("tabindex", other === made ? 0 : -1));
      onNode(i);
    });
    made.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS)) return;
      event.preventDefault();
      nodes[(i + STEPS[event.key] + nodes.length) % nodes.length].focus();
    });
  });
}
