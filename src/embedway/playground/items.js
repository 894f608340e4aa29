/** What is embedded: texts, and images as data URIs. An item is `{label, text}` or `{label, image}`. */

/** A text area's content → items. `separator`: "line" or "blank" (a blank line between texts). */
export function textItems(content, separator) {
  const parts = content.split(separator === "blank" ? /\n\s*\n/ : "\n");
  return parts
    .map((part) => part.trim())
    .filter(Boolean)
    .map((text) => ({ label: text, text }));
}

/** Items → the API's `input`: plain strings where there are no images. */
export function inputOf(items) {
  const hasImages = items.some((item) => item.image);
  return items.map((item) => (item.image ? { image: item.image } : hasImages ? { text: item.text } : item.text));
}

/** A File → an item. */
export function imageItem(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ label: file.name || "pasted image", image: reader.result });
    reader.onerror = () => reject(new Error(`${file.name} cannot be read: ${reader.error.message}`));
    reader.readAsDataURL(file);
  });
}

export function shortLabel(item, length) {
  const letters = Array.from(item.label);
  return letters.length <= length
    ? item.label
    : `${letters
        .slice(0, length - 1)
        .join("")
        .trimEnd()}…`;
}
