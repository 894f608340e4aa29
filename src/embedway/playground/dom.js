/** Making elements. Whatever a user or a server wrote comes in as text nodes and attributes, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svgElement(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

/** Attributes that are null, undefined or false are left out. */
function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** With a real minus, and no minus before a zero. */
export function fixed(value, digits) {
  return value
    .toFixed(digits)
    .replace(/^-(?=0\.?0*$)/, "")
    .replace("-", "−");
}

export const firstOf = (count, total) => element("p", { class: "hint" }, `The first ${count} of ${total} are shown.`);

export function emptyNote(...lines) {
  const note = element("p", { class: "empty" });
  lines.forEach((line, i) => note.append(...(i ? [element("br"), line] : [line])));
  return note;
}
