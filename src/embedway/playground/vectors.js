/** An answer's vectors as numbers that can be compared, and how alike two of them are. */

const BITS = [128, 64, 32, 16, 8, 4, 2, 1];
const OFFSET = 128;

/** An `embedding`, numbers or base64, of any `output_dtype` → Float64Array. A bit becomes 1 or -1. */
export function decode(embedding, outputDtype) {
  const numbers = typeof embedding === "string" ? fromBase64(embedding, outputDtype) : embedding;
  switch (outputDtype) {
    case "uint8":
      return Float64Array.from(numbers, (number) => number - OFFSET);
    case "ubinary":
      return unpacked(numbers);
    case "binary":
      return unpacked(numbers.map((number) => number + OFFSET));
    default:
      return Float64Array.from(numbers);
  }
}

function fromBase64(text, outputDtype) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  if (outputDtype === "float32") {
    const view = new DataView(bytes.buffer);
    return Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  }
  const isSigned = outputDtype === "int8" || outputDtype === "binary";
  return Array.from(isSigned ? new Int8Array(bytes.buffer) : bytes);
}

function unpacked(bytes) {
  return Float64Array.from(Array.from(bytes).flatMap((byte) => BITS.map((bit) => (byte & bit ? 1 : -1))));
}

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

export const cosine = (a, b) => dot(normalized(a), normalized(b));

export function cosineMatrix(vectors) {
  const units = vectors.map(normalized);
  const matrix = units.map(() => new Float64Array(units.length));
  for (let i = 0; i < units.length; i++) {
    for (let j = 0; j <= i; j++) matrix[i][j] = matrix[j][i] = dot(units[i], units[j]);
  }
  return matrix;
}

/** A zero vector stays zero. */
export function normalized(vector) {
  const norm = Math.sqrt(dot(vector, vector)) || 1;
  return vector.map((value) => value / norm);
}

/** Indices of the largest `count` scores, the largest first; `but` is left out. */
export function largest(scores, count, but = -1) {
  const indices = Array.from(scores, (_, i) => i).filter((i) => i !== but);
  return indices.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count);
}
