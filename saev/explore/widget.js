// Draws the data of saev/explore/cards.py: rows of photos with maps of one latent, or one photo whose patches can be clicked.
// `model.get("data")` is the data; a click sets `chosen` of the model: [latent or example, number, clicks so far].

const element = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const round = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

// The photo, or a grey square where it is missing.
function picture(card, className) {
  const photo = card.src
    ? element("img", { src: card.src, alt: card.label, title: card.path })
    : element("div", { className: "none", textContent: card.grid ? "" : "no photo", title: card.path });
  return element("div", { className }, photo);
}

// Show the map of a latent on a photo (see marks.js); null: none.
function setMarks(frame, map, grid) {
  frame.querySelector(".marks:not(.patch)")?.remove();
  if (map) frame.append(marksOf(map, ...grid));
}

function choose(model, kind, number) {
  const clicks = (model.get("chosen") || [])[2] || 0;
  model.set("chosen", [kind, number, clicks + 1]);
  model.save_changes();
}

// Whether a click leads somewhere: on an exported page only to its latents and images.
const opens = (model, kind, number) => !model.get("opens") || model.get("opens")[kind].has(number);

function photosOf(model, cards, maps, kind = "example") {
  const row = element("div", { className: "row" });
  for (const card of cards) {
    const frame = picture(card, "frame"), map = card.map && bytesOf(card.map);
    if (card.grid) {
      maps.push((visible) => setMarks(frame, visible ? map : null, card.grid));
      maps.at(-1)(true);
    }
    const caption = element("span", {}, element("b", { textContent: card.code }), ` ${card.label}`);
    const button = element("button", { className: "photo", type: "button", title: `image ${card.example}: ${card.path}` }, frame, caption);
    if (kind && opens(model, kind, card.example)) button.addEventListener("click", () => choose(model, kind, card.example));
    else button.disabled = true;
    row.append(button);
  }
  return row;
}

function mapSwitch(maps) {
  const shown = element("input", { type: "checkbox", checked: true });
  shown.addEventListener("change", () => maps.forEach((one) => one(shown.checked)));
  return element("label", { className: "switch" }, shown, " heat maps: dark where the code is 0, undimmed at the latent's largest code, outlined above half of it");
}

function drawGallery(model, el, data) {
  const maps = [];
  el.append(mapSwitch(maps));
  for (const { latent, about, cells } of data.latents) {
    const open = element("button", { className: "open", type: "button", textContent: `Latent ${latent}` });
    open.addEventListener("click", () => choose(model, "latent", latent));
    el.append(element("h4", {}, open, ` ${about}`), photosOf(model, cells, maps));
  }
}

function drawLatent(model, el, data) {
  const maps = [], photos = element("div", {}, mapSwitch(maps)), side = element("div", {});
  for (const [heading, cards] of Object.entries(data.rows))
    if (cards.length) photos.append(element("h4", { textContent: heading }), photosOf(model, cards, maps));
  if (!Object.values(data.rows).some((cards) => cards.length)) photos.append(element("p", { textContent: "It fires on none of these images." }));
  const facts = element("table", {}, ...data.facts.map(([what, value]) =>
    element("tr", {}, element("th", { scope: "row", textContent: what }), element("td", { textContent: value }))));
  side.append(element("h4", { textContent: `Latent ${data.latent}` }), facts);
  for (const one of data.histograms) if (one.bars.length) side.append(element("h4", { textContent: one.heading }), bars(one));
  for (const [heading, rows] of Object.entries(data.near)) {
    side.append(element("h4", { textContent: heading }));
    for (const [j, cosine, about] of rows) side.append(listed(model, j, about, cosine.toFixed(2), Math.max(0, cosine)));
  }
  el.append(element("div", { className: "wide" }, photos, side));
}

function bars({ bars: counts, range, unit, heading }) {
  const most = Math.max(...counts), row = element("div", { className: "bars" });
  counts.forEach((n, i) => {
    const low = range[0] + ((range[1] - range[0]) * i) / counts.length, high = range[0] + ((range[1] - range[0]) * (i + 1)) / counts.length;
    const bar = element("i", { title: `${round(low)} to ${round(high)}: ${n} ${unit}` });
    bar.style.height = n ? `${Math.max(2, (100 * n) / most)}%` : "0";
    row.append(bar);
  });
  const ends = element("div", { className: "ends" }, ...range.map((x) => element("span", { textContent: round(x) })));
  const drawing = element("div", {}, row, ends);
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", `${heading}, from ${round(range[0])} to ${round(range[1])}, the tallest bar ${most} ${unit}`);
  return drawing;
}

// A latent of each of two dictionaries, one beside the other.
function drawPair(model, el, data) {
  const maps = [];
  const sides = data.sides.map(({ latent, name, about, cells }, i) => {
    const open = element("button", { className: "open", type: "button", textContent: `Latent ${latent}` });
    open.addEventListener("click", () => choose(model, i ? "other" : "latent", latent));
    const row = photosOf(model, cells, maps, i ? "" : "example");
    return element("section", {}, element("h4", {}, open, ` of ${name}`), element("small", { textContent: about }), row);
  });
  el.append(mapSwitch(maps), element("div", { className: "sides" }, ...sides));
}

// A latent with a bar behind it; a click opens it.
function listed(model, j, about, value, fraction) {
  const bar = element("i", {});
  bar.style.width = `${100 * fraction}%`;
  const text = element("span", {}, element("b", { textContent: j }), ` ${about}`);
  const button = element("button", { type: "button", className: "entry", title: `open latent ${j}: ${about}` }, bar, text, element("em", { textContent: value }));
  if (opens(model, "latent", j)) button.addEventListener("click", () => choose(model, "latent", j));
  else button.disabled = true;
  return button;
}

function drawImage(model, el, data) {
  const frame = picture(data, "frame large");
  const list = element("div", { className: "list" });
  el.append(element("div", { className: "pair" }, element("div", {}, frame, element("small", { textContent: data.path })), list));
  const latents = data.grid && Array.from(new Uint16Array(bytesOf(data.latents).buffer), (i) => data.names[i]);
  const codes = data.grid && bytesOf(data.codes);
  let patch = null, latent = null, error = false;

  const mapOf = (j) => {
    const map = new Uint8Array(data.grid[0] * data.grid[1]);
    for (let i = 0; i < latents.length; i++) if (latents[i] === j) map[Math.floor(i / data.top)] = codes[i];
    const largest = Math.max(1, ...map);
    return map.map((code) => Math.ceil((255 * code) / largest));
  };
  const show = () => {
    const [height, width] = data.grid || [1, 1];
    const map = error ? bytesOf(data.error.map) : latent === null ? null : mapOf(latent);
    setMarks(frame, map, data.grid);
    frame.querySelector(".patch")?.remove();
    if (patch !== null) {
      const chosen = element("span", { className: "marks patch" }), path = `M${patch % width} ${Math.floor(patch / width)}h1v1h-1z`;
      chosen.innerHTML = `<svg viewBox="0 0 ${width} ${height}" preserveAspectRatio="none"><path class="dark" d="${path}"/><path class="light" d="${path}"/></svg>`;
      frame.append(chosen);
    }
    const rows = patch === null ? data.strongest : [...Array(data.top).keys()]
      .map((i) => [latents[patch * data.top + i], (codes[patch * data.top + i] / 255) * data.upper]).filter(([j]) => j >= 0);
    const title = patch === null ? "Strongest latents of the image" : `Patch ${Math.floor(patch / width) + 1}, ${(patch % width) + 1}: its latents`;
    list.replaceChildren(element("h4", { textContent: title }), ...rows.map(([j, code]) => item(j, code, rows[0][1])));
    if (data.error) list.append(errorLine());
    if (!rows.length) list.append(element("p", { textContent: "No latent fires here." }));
    if (data.grid) list.append(element("small", { textContent: "Click a patch for its latents, a latent for its map (among each patch's largest codes)." }));
    if (patch !== null) {
      const all = element("button", { type: "button", className: "open", textContent: "whole image" });
      all.addEventListener("click", () => { patch = null; show(); });
      list.append(all);
    }
  };
  const errorLine = () => {
    const here = patch === null ? data.error.mean : round((bytesOf(data.error.map)[patch] / 255) * data.error.upper);
    const button = element("button", { type: "button", className: "open", textContent: error ? "hide its map" : "show its map" });
    button.addEventListener("click", () => { error = !error; latent = null; show(); });
    return element("p", { className: "error" }, `Error of the reconstruction${patch === null ? ", mean of patches" : ""}: ${here} `,
      element("small", { textContent: "(1: what the mean token costs; the map is bright where it is large)" }), button);
  };
  const item = (j, code, most) => {
    const bar = element("i", {});
    bar.style.width = `${Math.max(2, (100 * code) / most)}%`;
    const text = element("span", {}, element("b", { textContent: j }), ` ${data.about[j] || ""}`);
    const map = element("button", { type: "button", className: j === latent ? "entry on" : "entry" }, bar, text, element("em", { textContent: round(code) }));
    map.setAttribute("aria-pressed", j === latent);
    map.addEventListener("click", () => { latent = latent === j ? null : j; error = false; show(); });
    const open = element("button", { type: "button", className: "open", textContent: "open", title: `Latent ${j} on all images` });
    open.addEventListener("click", () => choose(model, "latent", j));
    return element("div", { className: "item" }, map, ...(opens(model, "latent", j) ? [open] : []));
  };
  if (data.grid) {
    frame.tabIndex = 0;
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-label", "patches of the photo: click one, or move with the arrow keys");
    frame.addEventListener("click", (event) => {
      const box = frame.getBoundingClientRect(), [height, width] = data.grid;
      const x = Math.floor(((event.clientX - box.left) / box.width) * width), y = Math.floor(((event.clientY - box.top) / box.height) * height);
      patch = Math.min(height - 1, Math.max(0, y)) * width + Math.min(width - 1, Math.max(0, x));
      show();
    });
    frame.addEventListener("keydown", (event) => {
      const [height, width] = data.grid;
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = patch === null ? 0 : patch + step;
      if (next >= 0 && next < height * width) patch = next;
      show();
    });
  }
  show();
}

function render({ model, el }) {
  const draw = () => {
    const root = element("div", { className: "saev" });
    const data = model.get("data");
    if (data.kind === "gallery") drawGallery(model, root, data);
    if (data.kind === "latent") drawLatent(model, root, data);
    if (data.kind === "image") drawImage(model, root, data);
    if (data.kind === "pair") drawPair(model, root, data);
    el.replaceChildren(root);
  };
  model.on("change:data", draw);
  draw();
}
export default { render };
