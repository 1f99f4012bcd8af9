// Loaded in the head and not deferred, so that a remembered scheme is there
// before the first paint.
(() => {
  const root = document.documentElement;
  let chosen = null;
  try {
    chosen = localStorage.getItem("semel.scheme");
  } catch {
    // Storage can be forbidden; then the scheme is the system's.
  }
  if (chosen === "light" || chosen === "dark") root.dataset.scheme = chosen;

  const system = matchMedia("(prefers-color-scheme: dark)");
  const shown = () => root.dataset.scheme ?? (system.matches ? "dark" : "light");

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("scheme");
    const label = () => {
      const next = shown() === "dark" ? "light" : "dark";
      button.setAttribute("aria-label", `Change to the ${next} scheme`);
      button.title = button.getAttribute("aria-label");
    };
    label();
    system.addEventListener("change", label);
    button.addEventListener("click", () => {
      root.dataset.scheme = shown() === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("semel.scheme", root.dataset.scheme);
      } catch {
        // Then it holds until the page is loaded again.
      }
      label();
    });
  });
})();
