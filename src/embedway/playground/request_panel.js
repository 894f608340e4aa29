/** The request as code, to read and to copy. */

import { byId } from "./dom.js";
import { apiKey, addressOf } from "./server.js";
import { LANGUAGES } from "./snippets.js";
import { tabList } from "./tabs.js";

const SHOWN_OF_IMAGE = 48;
const SHOWN_AGAIN_MS = 1600;

export class RequestPanel {
  #requests = [];
  #language = "curl";

  constructor() {
    tabList(byId("languages"), byId("tab-curl"), (tab) => {
      this.#language = tab.id.slice("tab-".length);
      byId("code").setAttribute("aria-labelledby", tab.id);
      this.#render();
    });
    byId("copy").addEventListener("click", () => this.#copy());
  }

  show(requests) {
    this.#requests = requests;
    this.#render();
  }

  #codeOf(requests) {
    return requests.length ? LANGUAGES[this.#language](requests, addressOf("v1"), Boolean(apiKey.get())) : "";
  }

  #render() {
    const hasImages = this.#requests.some(({ body }) => body.input.some((item) => item.image));
    byId("code").firstElementChild.textContent = this.#codeOf(this.#requests.map(shortened));
    byId("code-note").textContent = hasImages ? "Images are shortened here; the copy has them whole." : "";
  }

  async #copy() {
    const button = byId("copy");
    button.textContent = (await copied(this.#codeOf(this.#requests))) ? "Copied" : "Not copied";
    byId("status").textContent = button.textContent;
    setTimeout(() => (button.textContent = "Copy"), SHOWN_AGAIN_MS);
  }
}

/** Images may be megabytes, and code is shown anew with every letter that is typed. */
function shortened({ name, body }) {
  const short = (item) => (item.image ? { ...item, image: `${item.image.slice(0, SHOWN_OF_IMAGE)}…` } : item);
  return { name, body: { ...body, input: body.input.map(short) } };
}

/** The clipboard is open to secure pages only (HTTPS, localhost); elsewhere the old way is left. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    focused.focus();
    return isDone;
  }
}
