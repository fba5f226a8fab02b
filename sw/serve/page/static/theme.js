// Before anything is drawn, so that no wrong colours flash. The scheme is that of the system, unless another was chosen here.
{
  const system = matchMedia("(prefers-color-scheme: dark)");
  const SCHEMES = { system: "as the system", light: "light", dark: "dark" };

  const chosen = () => {
    try {
      return localStorage.getItem("hwgen-theme") ?? "system";
    } catch {
      return "system"; // a browser that keeps nothing
    }
  };
  const apply = () => {
    const scheme = chosen();
    document.documentElement.dataset.theme = scheme === "system" ? (system.matches ? "dark" : "light") : scheme;
    document.getElementById("theme")?.setAttribute("aria-label", `Colours: ${SCHEMES[scheme]}`);
    document.dispatchEvent(new Event("theme"));
  };

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      const names = Object.keys(SCHEMES);
      try {
        localStorage.setItem("hwgen-theme", names[(names.indexOf(chosen()) + 1) % names.length]);
      } catch {
        return;
      }
      apply();
    });
  });
}
