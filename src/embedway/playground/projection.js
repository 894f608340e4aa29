/** Principal components by power iteration: vectors [n, dim] → points in the plane that shows most of their spread. */

import { dot, normalized } from "./vectors.js";

const MAX_ITERATIONS = 500;
const NO_SPREAD = 1e-9;

/** → `{points: [[x, y], …], shares: [x, y]}`; a share is the part of the whole variance that its axis shows. */
export function project(vectors) {
  const centred = aroundMean(vectors);
  const variance = centred.reduce((sum, vector) => sum + dot(vector, vector), 0);
  const axes = [];
  for (let k = 0; k < 2; k++) axes.push(nextAxis(centred, axes));
  const spreads = axes.map((axis) => axis.size ** 2);
  return {
    points: centred.map((_, i) => axes.map((axis) => axis.size * axis.unit[i])),
    shares: spreads.map((spread) => (variance > 0 ? spread / variance : 0)),
  };
}

function aroundMean(vectors) {
  const mean = new Float64Array(vectors[0].length);
  for (const vector of vectors) vector.forEach((value, i) => (mean[i] += value / vectors.length));
  return vectors.map((vector) => vector.map((value, i) => value - mean[i]));
}

/**
 * The largest left singular vector of `rows` at right angles to the axes found: `unit` [n], and its singular value.
 * It multiplies by the rows and back, so no matrix of items by items or of dimensions by dimensions is made.
 */
function nextAxis(rows, found) {
  let unit = normalized(
    withoutAxes(
      rows.map((_, i) => Math.sin(i + 1 + found.length)),
      found,
    ),
  );
  let spread = 0;
  for (let i = 0; i < MAX_ITERATIONS; i++) {
    const next = withoutAxes(timesRows(rows, unit), found);
    spread = Math.sqrt(dot(next, next));
    if (spread < NO_SPREAD) return { unit: unit.fill(0), size: 0 };
    const before = unit;
    unit = normalized(next);
    if (1 - dot(before, unit) <= Number.EPSILON) break;
  }
  return { unit: facingUp(unit), size: Math.sqrt(spread) };
}

function timesRows(rows, unit) {
  const sum = new Float64Array(rows[0].length);
  rows.forEach((row, i) => {
    for (let j = 0; j < row.length; j++) sum[j] += unit[i] * row[j];
  });
  return rows.map((row) => dot(row, sum));
}

function withoutAxes(vector, axes) {
  return axes.reduce((rest, { unit }) => {
    const along = dot(rest, unit);
    return rest.map((value, i) => value - along * unit[i]);
  }, vector);
}

/** An axis has no direction of its own: the largest value is positive, so that the same items give the same map. */
function facingUp(unit) {
  const peak = unit.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
  return peak < 0 ? unit.map((value) => -value) : unit;
}
