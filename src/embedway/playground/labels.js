/** Where the map's labels stand: beside their point, where they hide neither a point nor another label. */

import { shortLabel } from "./items.js";

const FONT = "13px system-ui, sans-serif";
const LINE_HEIGHT = 16;
const BASELINE = 12;
const GAP = 5;
const LENGTHS = [34, 22, 14];

/** → `[{text, x, y}]`, y on the baseline. An item for whose label there is no room has none. */
export function placeLabels(items, places, size, radius) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = FONT;
  const taken = places.map(([x, y]) => box(x - radius, y - radius, 2 * radius, 2 * radius));
  const labels = [];
  items.forEach((item, i) => {
    if (item.image) return;
    const found = firstFree(item, places[i], { pen, size, radius, others: taken.filter((_, k) => k !== i) });
    if (!found) return;
    taken.push(found.area);
    labels.push({ text: found.text, x: found.area.left, y: found.area.top + BASELINE });
  });
  return labels;
}

function firstFree(item, [x, y], { pen, size, radius, others }) {
  const away = radius + GAP;
  for (const length of LENGTHS) {
    const text = shortLabel(item, length);
    const width = pen.measureText(text).width;
    const corners = [
      [x + away, y - LINE_HEIGHT / 2],
      [x - away - width, y - LINE_HEIGHT / 2],
      [x - width / 2, y - away - LINE_HEIGHT],
      [x - width / 2, y + away],
    ];
    for (const [left, top] of corners) {
      const area = box(left, top, width, LINE_HEIGHT);
      if (isInside(area, size) && !others.some((other) => doOverlap(area, other))) return { text, area };
    }
  }
  return null;
}

const box = (left, top, width, height) => ({ left, top, right: left + width, bottom: top + height });

const isInside = (area, { width, height }) =>
  area.left >= 2 && area.right <= width - 2 && area.top >= 2 && area.bottom <= height - 2;

const doOverlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
