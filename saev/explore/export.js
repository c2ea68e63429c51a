// The exported page: widget.js, which stands before this script, draws the views; the address's hash says which.

const DATA = JSON.parse(document.getElementById("data").textContent), view = document.getElementById("view");
const ORDER = { latents: DATA.rows.map((row) => row[0]), images: Object.keys(DATA.images).map(Number) };
const OPENS = { latent: new Set(ORDER.latents), example: new Set(ORDER.images) };
const state = { latent: ORDER.latents[0], image: ORDER.images[0], sort: 0, down: false, text: "" };
const MOST = 10; // latents with photos below the table

const photoOf = (card) => ({ ...card, src: card.src && DATA.photos[card.src] });
const text = (value) => (typeof value !== "number" ? value ?? "–" : Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(3)).toString());

// What `render` needs of anywidget's model.
function modelOf(data) {
  const values = { data, opens: OPENS };
  return {
    get: (name) => values[name],
    set(name, value) { values[name] = value; },
    save_changes() {
      const [kind, number] = values.chosen;
      location.hash = kind === "latent" ? `latent=${number}` : `image=${number}`;
    },
    on() {},
  };
}

function drawn(data) {
  const el = element("div");
  render({ model: modelOf(data), el });
  return el;
}

function chosenRows() {
  const words = state.text.trim().toLowerCase();
  const rows = DATA.rows.filter((row) => !words || String(row[0]) === words || row.some((value) => typeof value === "string" && value.toLowerCase().includes(words)));
  const key = (row) => row[state.sort] ?? (state.down ? -Infinity : Infinity);
  return rows.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (state.down ? -1 : 1));
}

function table(rows) {
  const heads = DATA.columns.map((name, i) => {
    const button = element("button", { type: "button", textContent: name });
    button.addEventListener("click", () => { state.down = state.sort === i ? !state.down : true; state.sort = i; draw(); });
    const head = element("th", { scope: "col" }, button);
    if (i === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    return head;
  });
  const body = rows.map((row) => element("tr", {}, ...row.map((value, i) =>
    element("td", {}, i ? text(value) : element("a", { href: `#latent=${value}`, textContent: value })))));
  return element("div", { className: "scroll", tabIndex: 0 }, element("table", { className: "rows" }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body)));
}

function drawLatents() {
  const search = element("input", { type: "search", value: state.text, placeholder: "number, name, class, trait" });
  const below = element("div");
  const fill = () => {
    const rows = chosenRows();
    const latents = rows.slice(0, MOST).map(([j]) => ({ latent: j, about: DATA.about[j], cells: Object.values(DATA.latents[j].rows)[0].map(photoOf) }));
    below.replaceChildren(element("p", { className: "note", textContent: `${rows.length} of ${DATA.rows.length} latents; photos of the first ${latents.length}` }), table(rows), drawn({ kind: "gallery", latents }));
  };
  search.addEventListener("input", () => { state.text = search.value; fill(); });
  fill();
  view.replaceChildren(element("p", { className: "controls" }, element("label", {}, "Search ", search)), below);
}

// A list to choose from, and the view of the chosen one.
function drawOne(kind, numbers, nameOf, data) {
  const select = element("select", {}, ...numbers.map((number) => element("option", { value: number, textContent: nameOf(number), selected: number === state[kind] })));
  select.addEventListener("change", () => { location.hash = `${kind}=${select.value}`; });
  view.replaceChildren(element("p", { className: "controls" }, element("label", {}, `${kind[0].toUpperCase()}${kind.slice(1)} `, select)), drawn(data));
}

function draw() {
  const [kind, number] = location.hash.slice(1).split("=");
  if (number !== undefined && OPENS[kind === "latent" ? "latent" : "example"].has(Number(number))) state[kind] = Number(number);
  document.querySelectorAll(".views a").forEach((link) => {
    if (link.hash === `#${kind || "latents"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  if (kind === "latent" && ORDER.latents.length) {
    const card = DATA.latents[state.latent], rows = Object.entries(card.rows).map(([heading, cells]) => [heading, cells.map(photoOf)]);
    drawOne("latent", ORDER.latents, (j) => `${j}: ${DATA.about[j]}`, { ...card, rows: Object.fromEntries(rows) });
  } else if (kind === "image" && ORDER.images.length) {
    drawOne("image", ORDER.images, (i) => `${i}: ${DATA.images[i].label}`, { ...photoOf(DATA.images[state.image]), about: DATA.about });
  } else drawLatents();
}
window.addEventListener("hashchange", draw);
draw();
