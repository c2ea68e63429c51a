// Marks on photos, enlarged photos, search, sorted tables; what a page's own script adds later works too.
{
const root = document.documentElement, large = document.getElementById("large");
root.classList.add("js");

// --- marks
document.querySelectorAll("[data-grid]").forEach(mark);
document.addEventListener("change", event => {
  if (!event.target.matches("[data-plain]")) return;
  root.classList.toggle("plain", event.target.checked);
  document.querySelectorAll("[data-plain]").forEach(box => { box.checked = event.target.checked; });
});

// --- a photo is enlarged by a click or Enter; arrow keys lead to the next, Escape closes
let current = null;
const views = () => [...document.querySelectorAll("main button.view")].filter(view => view.getClientRects().length);
function enlarge(view) {
  current = view;
  const copy = view.cloneNode(false), about = large.querySelector(".about"), of = view.closest(".latent")?.querySelector("b");
  const shown = Object.assign(document.createElement("div"), { className: copy.className, title: copy.title });
  shown.setAttribute("role", "img");
  shown.setAttribute("aria-label", view.getAttribute("aria-label"));
  if (view.dataset.grid) { Object.assign(shown.dataset, view.dataset); mark(shown); }
  large.querySelector(".stage").replaceChildren(shown);
  about.replaceChildren(view.closest("figure").querySelector("figcaption").cloneNode(true).textContent, document.createElement("br"),
    Object.assign(document.createElement("small"), { textContent: [of?.textContent, view.getAttribute("aria-label")].filter(Boolean).join(" · ") }));
  if (!large.open) large.showModal();
}
function step(by) {
  const all = views(), next = all[all.indexOf(current) + by];
  if (next) enlarge(next);
}
document.querySelector("main").addEventListener("click", event => {
  const view = event.target.closest("button.view");
  if (view) enlarge(view);
});
large.addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (by) { event.preventDefault(); step(by); }
});
large.addEventListener("click", event => { if (event.target === large) large.close(); }); // beside it
large.addEventListener("close", () => { current?.focus(); current?.scrollIntoView({ block: "nearest" }); });
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("following").addEventListener("click", () => step(1));
document.getElementById("close").addEventListener("click", () => large.close());

// --- print: what is folded is shown
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach(one => { one.open = one.printed = true; }));
addEventListener("afterprint", () => document.querySelectorAll("details").forEach(one => { if (one.printed) one.open = one.printed = false; }));

// --- search: hides the elements of a selector whose data-text does not contain the text
function filter(input) {
  const text = input.value.trim().toLowerCase(), all = [...document.querySelectorAll(input.dataset.filter)];
  for (const one of all) one.hidden = !one.dataset.text.toLowerCase().includes(text);
  const n = all.filter(one => !one.hidden).length;
  input.closest(".controls").querySelector("output").textContent = `${text ? `${n} of ` : ""}${all.length} ${input.dataset.what}`;
}
document.querySelectorAll("[data-filter]").forEach(input => { input.addEventListener("input", () => filter(input)); filter(input); });

// --- tables with class sorted: by the column whose heading is pressed; first texts ascending, numbers descending
document.querySelectorAll("table.sorted").forEach(table => {
  const all = [...table.tHead.rows[0].cells];
  all.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const before = heading.getAttribute("aria-sort"), down = before ? before === "ascending" : column > 0;
    all.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => { const { value } = row.cells[column].dataset, text = value ?? row.cells[column].textContent; return column && value === "" ? -Infinity : column && !isNaN(text) ? Number(text) : text.toLowerCase(); };
    const rows = [...table.tBodies[0].rows].sort((a, b) => { const x = key(a), y = key(b); return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
    table.tBodies[0].append(...rows);
  }));
});
}
