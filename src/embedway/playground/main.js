/** The page: what is on it → requests → answers → the view that is open. */

import { Answers } from "./answers.js";
import { byId } from "./dom.js";
import { Editor } from "./editor.js";
import { inputOf } from "./items.js";
import { clearError, showError, showFigures } from "./messages.js";
import { askForKey, watchModel } from "./model_choice.js";
import { offerOptions, optionFields, watchOptions } from "./options.js";
import { RequestPanel } from "./request_panel.js";
import { drawnImages, IMAGE_QUERY, IMAGE_TEXTS, QUERY, TEXTS } from "./samples.js";
import { tabList } from "./tabs.js";
import { VIEWS } from "./views.js";

const TEXT_ONLY = "This model reads text only; one such as openai/clip-vit-base-patch32 reads images, too.";
const TAKES_IMAGES = "PNG, JPEG, WebP or GIF: choose files, drop them on the texts, or paste.";

const answers = new Answers();
const panel = new RequestPanel();
const editor = new Editor({ onChange: showRequests, onError: showError });
let view = "compare";
let readsImages = false;
let isBusy = false;

/** What the open view needs, in the order in which it is asked. */
function requests() {
  const body = (input, role) => ({ model: byId("model").value, input, ...optionFields(role) });
  const input = inputOf(editor.items);
  if (view !== "search") return [{ name: "answer", body: body(input, null) }];
  const query = byId("query").value.trim();
  const documents = { name: "documents", body: body(input, "document") };
  return query ? [documents, { name: "query", body: body([query], "query") }] : [documents];
}

function showRequests() {
  if (!byId("model").disabled) panel.show(requests());
}

/** Ask for what `needsNew(name)` says, and for whatever is not kept. */
async function run(needsNew) {
  if (isBusy || byId("model").disabled) return;
  const [items, asked, found] = [editor.items, [], []];
  setBusy(true);
  clearError();
  try {
    for (const { name, body } of requests()) {
      const kept = needsNew(name) ? undefined : answers.kept(body);
      const answer = kept ?? (await answers.ask(body));
      if (!kept) asked.push({ answer, count: body.input.length });
      found.push(answer);
    }
    if (asked.length) showFigures(asked);
    VIEWS[view](items, found);
  } catch (error) {
    showError(error);
    if (error.status === 401) askForKey();
  } finally {
    setBusy(false);
  }
}

/** Not `disabled`: that would take the focus from the button that was pressed. */
function setBusy(isNow) {
  isBusy = isNow;
  byId("results").setAttribute("aria-busy", String(isNow));
  for (const id of ["embed", "search"]) byId(id).setAttribute("aria-disabled", String(isNow));
}

function openView(tab) {
  view = tab.id.slice("tab-".length);
  for (const name of Object.keys(VIEWS)) byId(`view-${name}`).hidden = name !== view;
  history.replaceState(null, "", `#${view}`);
  showRequests();
  const found = byId("model").disabled ? [] : requests().map(({ body }) => answers.kept(body));
  if (found.length && found.every(Boolean)) VIEWS[view](editor.items, found);
}

function fillSample() {
  byId("query").value = readsImages ? IMAGE_QUERY : QUERY;
  editor.fill(readsImages ? IMAGE_TEXTS : TEXTS, readsImages ? drawnImages() : []);
}

function adaptTo(info) {
  readsImages = info.has_image_understanding;
  editor.setReadsImages(readsImages, readsImages ? TAKES_IMAGES : TEXT_ONLY);
  offerOptions(info);
  showRequests();
}

function begin(info) {
  adaptTo(info);
  if (readsImages) fillSample();
  byId("embed").disabled = byId("search").disabled = false;
  showRequests();
}

byId("embed-form").addEventListener("submit", (event) => {
  event.preventDefault();
  run(() => true);
});
byId("embed-form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(() => true);
});
byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  run((name) => name === "query");
});
byId("query").addEventListener("input", showRequests);
byId("sample").addEventListener("click", fillSample);
fillSample();
watchOptions(showRequests);
tabList(byId("views"), byId(`tab-${location.hash.slice(1)}`), openView);
watchModel({ onKnown: begin, onChoice: showRequests, onOther: adaptTo });
