/** A tab list as the ARIA authoring practices describe it: arrows, Home and End move and choose, Tab leaves. */

const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

/** Calls `onChoose(tab)` for the first choice, too. → `choose(tab)` */
export function tabList(list, first, onChoose) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];

  function choose(chosen) {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    onChoose(chosen);
  }

  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const target = targetOf(event.key, tabs.indexOf(document.activeElement), tabs.length);
    if (target === null) return;
    event.preventDefault();
    tabs[target].focus();
    choose(tabs[target]);
  });
  choose(first ?? tabs[0]);
  return choose;
}

function targetOf(key, at, count) {
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  return key in STEPS ? (at + STEPS[key] + count) % count : null;
}
