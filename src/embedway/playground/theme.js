/** The colours: the system's, or those that were chosen last. No module, so that it runs before the first paint. */
"use strict";

(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  try {
    const chosen = localStorage.getItem("embedway-theme");
    if (chosen) root.dataset.theme = chosen;
  } catch {
    // storage is closed to this page: the system's colours
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem("embedway-theme", root.dataset.theme);
      } catch {
        // it holds until the page is left
      }
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
