/** The panel of items: a text area, and images that are picked, dropped or pasted. */

import { byId, element } from "./dom.js";
import { imageItem, textItems } from "./items.js";

export class Editor {
  #images = [];
  #readsImages = false;
  #onChange;
  #onError;

  /** `onChange()` after every change; `onError(error)` for a file that cannot be read. */
  constructor({ onChange, onError }) {
    this.#onChange = onChange;
    this.#onError = onError;
    byId("texts").addEventListener("input", () => this.#changed());
    for (const choice of this.#separators()) choice.addEventListener("change", () => this.#changed());
    byId("add-images").addEventListener("click", () => byId("image-files").click());
    byId("image-files").addEventListener("change", (event) => {
      this.#addFiles(event.target.files);
      event.target.value = ""; // the same file may be picked again
    });
    byId("texts").addEventListener("paste", (event) => this.#takeFiles(event, event.clipboardData));
    this.#acceptDrops(byId("editor"));
  }

  /** Texts first, then images. */
  get items() {
    const separator = this.#separators().find((choice) => choice.checked).value;
    return [...textItems(byId("texts").value, separator), ...this.#images];
  }

  fill(texts, images) {
    byId("texts").value = texts.join(this.#separators()[0].checked ? "\n" : "\n\n");
    this.#images = images;
    this.#showImages();
  }

  /** `note` says why the image part is closed, or what it takes. */
  setReadsImages(readsImages, note) {
    this.#readsImages = readsImages;
    byId("add-images").disabled = !readsImages;
    byId("images-note").textContent = note;
    if (!readsImages) this.#images = [];
    this.#showImages();
  }

  #separators() {
    return [...document.getElementsByName("separator")];
  }

  #acceptDrops(area) {
    const mark = (isOver) => area.classList.toggle("is-over", isOver);
    area.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = this.#readsImages ? "copy" : "none";
      mark(this.#readsImages);
    });
    area.addEventListener("dragleave", () => mark(false));
    area.addEventListener("drop", (event) => {
      mark(false);
      this.#takeFiles(event, event.dataTransfer);
    });
  }

  /** Text that comes with no file is left to the browser. */
  #takeFiles(event, transfer) {
    if (!transfer.files.length) return;
    event.preventDefault();
    if (this.#readsImages) this.#addFiles(transfer.files);
    else this.#onError(new Error(byId("images-note").textContent));
  }

  async #addFiles(files) {
    try {
      const added = await Promise.all(Array.from(files, imageItem));
      this.#images.push(...added);
      this.#showImages();
    } catch (error) {
      this.#onError(error);
    }
  }

  #remove(item) {
    const at = this.#images.indexOf(item);
    this.#images.splice(at, 1);
    this.#showImages();
    const buttons = byId("images").querySelectorAll("button");
    (buttons[Math.min(at, buttons.length - 1)] ?? byId("add-images")).focus();
  }

  #showImages() {
    byId("images").replaceChildren(...this.#images.map((item) => this.#thumbnail(item)));
    byId("images").hidden = this.#images.length === 0;
    this.#changed();
  }

  #thumbnail(item) {
    const remove = element("button", { type: "button", "aria-label": `Remove ${item.label}` }, "×");
    remove.addEventListener("click", () => this.#remove(item));
    return element("li", {}, element("img", { src: item.image, alt: item.label, title: item.label }), remove);
  }

  #changed() {
    const count = this.items.length;
    byId("item-count").textContent = `${count} ${count === 1 ? "item" : "items"}`;
    this.#onChange();
  }
}
