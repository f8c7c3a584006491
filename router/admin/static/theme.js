// Sets the chosen theme before anything is painted. Not a module: those run too late for that.
(() => {
  const KEY = "warmroute.theme";
  const root = document.documentElement;
  const read = () => {
    try {
      return localStorage.getItem(KEY) || "auto";
    } catch {
      return "auto";
    }
  };
  const apply = (theme) => {
    root.dataset.theme = theme;
  };
  apply(read());

  document.addEventListener("DOMContentLoaded", () => {
    for (const choice of document.querySelectorAll("input[name=theme]")) {
      choice.checked = choice.value === root.dataset.theme;
      choice.addEventListener("change", () => {
        try {
          localStorage.setItem(KEY, choice.value);
        } catch {
          /* private windows forget it */
        }
        apply(choice.value);
        document.dispatchEvent(new Event("themechange"));
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      document.dispatchEvent(new Event("themechange"));
    });
  });
})();
