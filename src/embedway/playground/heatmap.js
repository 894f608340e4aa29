/** Similarities as a table of colours. One cell is in the tab order; the arrow keys move through the others. */

import { heat, heatGradient } from "./color.js";
import { element, firstOf, fixed } from "./dom.js";
import { shortLabel } from "./items.js";

const MAX_SHOWN = 60;
const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** `matrix` [n, n] of cosines. → nodes */
export function heatmap(items, matrix) {
  const shown = items.slice(0, MAX_SHOWN);
  const scale = scaleOf(matrix, shown.length);
  const detail = element("p", { class: "detail", id: "heat-detail" }, "Point at a cell, or move with the arrow keys.");
  const table = element("table", { class: "heat", role: "grid", "aria-label": "Cosine similarity of each two items" });
  table.append(headRow(shown), element("tbody", {}, ...shown.map((item, i) => bodyRow(item, i, shown, matrix, scale))));
  makeNavigable(table, (row, column) => {
    detail.replaceChildren(
      element("strong", {}, fixed(matrix[row][column], 4)),
      ` ${named(shown, row)} ↔ ${named(shown, column)}`,
    );
  });
  const note = items.length > MAX_SHOWN ? [firstOf(MAX_SHOWN, items.length)] : [];
  return [
    element("div", { class: "scroll" }, table),
    element("div", { class: "heat-foot" }, detail, legend(scale)),
    ...note,
  ];
}

const named = (items, i) => `${i + 1}. ${shortLabel(items[i], 60)}`;

/** The colours span the values off the diagonal, which would otherwise be all alike beside its ones. */
function scaleOf(matrix, size) {
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < i; j++) [low, high] = [Math.min(low, matrix[i][j]), Math.max(high, matrix[i][j])];
  }
  return size < 2 ? { low: 0, high: 1 } : { low, high };
}

function headRow(items) {
  const heads = items.map((item, j) => element("th", { scope: "col", title: item.label }, String(j + 1)));
  return element("thead", {}, element("tr", {}, element("td", { class: "corner", role: "presentation" }), ...heads));
}

function bodyRow(item, i, items, matrix, scale) {
  const name = item.image ? element("img", { src: item.image, alt: item.label }) : element("span", {}, item.label);
  const head = element("th", { scope: "row", title: item.label }, element("b", {}, String(i + 1)), name);
  return element("tr", {}, head, ...items.map((other, j) => cell(matrix[i][j], i === j, scale)));
}

function cell(value, isItself, { low, high }) {
  const made = element("td", { tabindex: -1, class: isItself ? "itself" : null }, fixed(value, 2));
  if (!isItself) {
    const { background, text } = heat(high > low ? (value - low) / (high - low) : 1);
    Object.assign(made.style, { background, color: text });
  }
  return made;
}

function legend({ low, high }) {
  const bar = element("span", { class: "ramp" });
  bar.style.background = heatGradient();
  const label = `Colours from ${fixed(low, 2)} to ${fixed(high, 2)}`;
  return element("p", { class: "legend", role: "img", "aria-label": label }, fixed(low, 2), bar, fixed(high, 2));
}

/** Calls `onCell(row, column)` for the cell that has the focus or the pointer. */
function makeNavigable(table, onCell) {
  const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
  const last = rows.length - 1;
  const placeOf = (td) => [td.parentElement.sectionRowIndex, td.cellIndex - 1];
  let current = rows[0][Math.min(1, last)];
  current.tabIndex = 0;

  function point(td) {
    const [row, column] = placeOf(td);
    table.querySelectorAll(".is-on").forEach((head) => head.classList.remove("is-on"));
    td.parentElement.cells[0].classList.add("is-on");
    table.tHead.rows[0].cells[column + 1].classList.add("is-on");
    onCell(row, column);
  }

  table.addEventListener("focusin", ({ target }) => {
    current.tabIndex = -1;
    current = target;
    current.tabIndex = 0;
    point(target);
  });
  table.addEventListener("pointerover", ({ target }) => {
    const td = target.closest("tbody td");
    if (td) point(td);
  });
  table.addEventListener("keydown", (event) => {
    const target = targetOf(event, placeOf(event.target), last);
    if (target === null) return;
    event.preventDefault();
    rows[target[0]][target[1]].focus();
  });
}

function targetOf({ key, ctrlKey }, [row, column], last) {
  const within = (value) => Math.min(Math.max(value, 0), last);
  if (key === "Home") return [ctrlKey ? 0 : row, 0];
  if (key === "End") return [ctrlKey ? last : row, last];
  const move = MOVES[key];
  return move ? [within(row + move[0]), within(column + move[1])] : null;
}
