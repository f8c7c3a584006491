// Marks in the navigation which section is being read.

export function followSections() {
  const links = new Map(
    [...document.querySelectorAll(".sections a")].map((link) => [link.hash.slice(1), link]),
  );
  const visible = new Set();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) visible[isIntersecting ? "add" : "delete"](target.id);
      const current = [...links.keys()].find((id) => visible.has(id));
      for (const [id, link] of links) {
        if (id === current) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-110px 0px -55% 0px" },
  );
  for (const id of links.keys()) observer.observe(document.getElementById(id));
}
