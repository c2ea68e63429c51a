const D = JSON.parse(document.getElementById("data").textContent), at = id => document.getElementById(id);
const state = { pair: 0, method: 0, latent: null, sort: D.columns.indexOf("z"), down: true };
const HEADINGS = { latent: "latent", auroc: "AUROC", z: "z", p_family: "p, family", q: "q", fires_a: "fires, A", fires_b: "fires, B", mean_a: "mean, A",
  mean_b: "mean, B", difference: "difference", difference_low: "low", difference_high: "high", d: "d", ap_a: "AP, A", ap_b: "AP, B", f1: "F1", precision: "precision", recall: "recall" };
const MEANINGS = { auroc: "probability that an image of A has a larger code than one of B (ties count half)", z: "standardised rank sum: positive where A is higher",
  p_family: "share of permutations in which any latent has so large a |z|", q: "Benjamini-Hochberg", fires_a: "fraction of A's images on which it fires", fires_b: "fraction of B's images on which it fires",
  difference: "of the mean codes; low and high: 95 %", d: "difference of the means in pooled standard deviations (Cohen)", ap_a: "average precision of A by descending codes", ap_b: "average precision of B by descending codes",
  f1: "of the best threshold, on held-out folds", precision: "on held-out folds", recall: "on held-out folds" };

function element(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) key in node ? node[key] = value : node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function svg(tag, options = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(options)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const text = value => value === null ? "–" : Number.isInteger(value) ? String(value) : Math.abs(value) >= 100 ? value.toFixed(0) : value !== 0 && Math.abs(value) < .001 ? value.toExponential(1) : value.toFixed(3);
const pair = () => D.pairs[state.pair], cards = () => D.cards[state.pair][state.method], name = latent => D.names[state.method][latent] || "";
const titled = latent => name(latent) ? `${latent} (${name(latent)})` : String(latent);
const group = position => position < pair().sizes[0] ? "a" : position < pair().sizes[0] + pair().sizes[1] ? "b" : "third";
const label = which => pair().labels["a b third".split(" ").indexOf(which)];

function heat(coded, height, width, colour) {
  const canvas = element("canvas", { width, height }), context = canvas.getContext("2d"), image = context.createImageData(width, height);
  bytesOf(coded).forEach((value, i) => image.data.set(colour(value), 4 * i));
  context.putImageData(image, 0, 0);
  return canvas;
}
const purple = value => [125, 46, 141, value]; // of mean maps, which have no photo

function figure(card, position) {
  const [example, path, height, width] = D.images[pair().images[position]], which = group(position), coded = card.maps[position];
  const view = element("button", { type: "button", className: `view group ${which} ${PHOTOS.has(example) ? "p" + example : "gone"}`, title: `${path} (${label(which)})` });
  view.setAttribute("aria-label", `${path}: ${label(which)}, code ${text(card.codes[position])}`);
  if (card.means && height) { Object.assign(view.dataset, { grid: `${height} ${width}`, map: coded || "" }); mark(view); }
  return element("figure", { className: "shown" }, view, element("figcaption", { title: `${path} (${label(which)})` }, element("b", {}, text(card.codes[position])), ` ${label(which)}`));
}

// What dimming and outline mean, as macro `scale` of parts.html.j2.
const legend = upper => element("span", { className: "scale" }, " ", element("span", { className: "ramp" }), ` 0 to ${text(upper)} `, element("span", { className: "swatch" }), ` above ${text(upper / 2)}`);

function histograms(card) {
  const [n_a, n_b] = pair().sizes, parts = [card.codes.slice(0, n_a), card.codes.slice(n_a, n_a + n_b)], all = parts.flat();
  const low = Math.min(0, ...all), high = Math.max(...all) || 1, bins = 24, w = 360, h = 74;
  const drawing = svg("svg", { class: "drawn", viewBox: `0 0 ${w} ${2 * h + 18}`, width: w, role: "img", "aria-label": "histograms of the codes of both groups" });
  parts.forEach((values, row) => {
    const counts = new Array(bins).fill(0);
    for (const value of values) counts[Math.min(bins - 1, Math.floor((value - low) / (high - low || 1) * bins))]++;
    const top = Math.max(...counts) / values.length || 1;
    counts.forEach((count, i) => {
      const height = count / values.length / top * (h - 20);
      drawing.append(svg("rect", { x: i * w / bins + 1, y: (row + 1) * h - height, width: w / bins - 2, height, fill: row ? "var(--b)" : "var(--a)" }));
    });
    drawing.append(svg("text", { x: w, y: row * h + 12, "text-anchor": "end" }, `${label(row ? "b" : "a")}: ${values.length} images, ${values.filter(v => v === 0).length} silent, tallest bar ${Math.round(100 * top)} %`));
  });
  drawing.append(svg("text", { x: 0, y: 2 * h + 14 }, text(low)), svg("text", { x: w, y: 2 * h + 14, "text-anchor": "end" }, `code ${text(high)}`));
  return drawing;
}

function maps(card) {
  if (!card.means) return element("p", { className: "note" }, "No maps: these codes are not of patches on a grid.");
  const [[a, b], [height, width], upper] = card.means, difference = bytesOf(a).map ? Array.from(bytesOf(a), (value, i) => value - bytesOf(b)[i]) : [];
  const most = Math.max(1, ...difference.map(Math.abs)), signed = btoa(String.fromCharCode(...difference.map(value => Math.round(127 + 127 * value / most))));
  const two = value => { const s = (value - 127) / 127, c = s > 0 ? [0, 114, 178] : [213, 94, 0]; return [...c.map(x => 255 + (x - 255) * Math.abs(s)), 255]; };
  const one = (coded, colour, caption) => element("figure", {}, heat(coded, height, width, colour), element("figcaption", {}, caption));
  const mean = i => `${label("ab"[i])}: mean of ${pair().sizes[i]} images${pair().specimens ? ` of ${pair().specimens[i]} specimens` : ""}`;
  return element("div", { className: "maps" }, one(a, purple, mean(0)), one(b, purple, mean(1)),
    one(signed, two, `difference: blue ${label("a")}, orange ${label("b")}, at most ${text(most / 255 * upper)}`));
}

function strip(card, positions, caption) {
  if (!positions.length) return "";
  return element("div", {}, element("p", { className: "note" }, caption), element("div", { className: "strip" }, ...positions.map(position => figure(card, position))));
}

function showCard() {
  const card = state.latent !== null && cards()[state.latent], place = at("card");
  place.replaceChildren();
  if (!card) { place.append(element("p", { className: "note" }, "Choose a latent with pictures from the ranking.")); return; }
  const row = Object.fromEntries(D.columns.map((key, i) => [key, D.rows[state.pair][state.method].find(each => each[0] == state.latent)[i]]));
  const higher = row.z >= 0 ? "a" : "b", lower = higher === "a" ? "b" : "a", third = card.rows.third.length;
  place.append(element("p", { className: "caption" }, element("b", {}, `latent ${titled(state.latent)}`), element("span", {}, ` higher in ${label(higher)} · AUROC ${text(higher === "a" ? row.auroc : 1 - row.auroc)} · p ${text(row.p_family)} (family-wise) · fires on ${Math.round(100 * row.fires_a)} % of ${label("a")}, ${Math.round(100 * row.fires_b)} % of ${label("b")} · F1 ${text(row.f1)} on held-out folds`), card.means ? legend(card.upper) : ""));
  place.append(strip(card, card.rows[higher + "_high"], `${label(higher)}, highest codes`), strip(card, card.rows[lower + "_high"], `${label(lower)}, highest codes (it fires on ${Math.round(100 * row["fires_" + lower])} % of them)`),
    strip(card, card.rows[higher + "_low"], `${label(higher)}, lowest codes (it is silent on ${Math.round(100 - 100 * row["fires_" + higher])} % of them)`), strip(card, card.rows[lower + "_low"], `${label(lower)}, lowest codes`));
  if (third) place.append(strip(card, card.rows.third, `${label("third")}, highest codes (shown, not used for choosing)`));
  place.append(element("p", { className: "note" }, "Codes of both groups, and mean maps"), element("div", { className: "side" }, histograms(card), maps(card)));
  const film = card.rows.film;
  place.append(element("p", { className: "note" }, `All images in the order of the code${third ? ", the third group among them" : ""} (${film.length} of ${card.codes.length}, evenly)`), element("div", { className: "film", tabIndex: 0 }, ...film.map(position => figure(card, position))));
}

function scatter() {
  const place = at("scatter"), x = cards()[at("x").value], y = cards()[at("y").value], size = 340, pad = 34;
  place.replaceChildren();
  if (!x || !y) { place.append(element("p", { className: "note" }, "No latents with pictures for this pair and dictionary.")); return; }
  const scale = codes => { const low = Math.min(0, ...codes), high = Math.max(...codes) || 1; return value => (value - low) / (high - low || 1) * (size - 2 * pad) + pad; };
  const sx = scale(x.codes), sy = scale(y.codes), drawing = svg("svg", { class: "drawn", viewBox: `0 0 ${size} ${size}`, width: size, role: "img", "aria-label": "codes of two latents on all images of the pair" });
  drawing.append(svg("path", { d: `M${pad} ${pad}V${size - pad}H${size - pad}`, fill: "none", stroke: "var(--soft)" }));
  x.codes.forEach((value, position) => {
    const which = group(position), colour = `var(--${which === "third" ? "yes" : which})`, cx = sx(value), cy = size - sy(y.codes[position]), style = { fill: which === "b" ? "none" : colour, stroke: colour, "fill-opacity": .55 };
    const mark = which === "third" ? svg("rect", { x: cx - 3, y: cy - 3, width: 6, height: 6, ...style }) : svg("circle", { cx, cy, r: 3.5, ...style });
    mark.append(svg("title", {}, `${D.images[pair().images[position]][1]} (${label(which)})`));
    drawing.append(mark);
  });
  drawing.append(svg("text", { x: size - pad, y: size - 10, "text-anchor": "end" }, `latent ${at("x").value}, up to ${text(Math.max(...x.codes))}`), svg("text", { x: pad, y: 20 }, `latent ${at("y").value}, up to ${text(Math.max(...y.codes))}`));
  place.append(drawing, element("p", { className: "note" }, `Filled: ${label("a")}; open: ${label("b")}${pair().sizes[2] ? "; squares: " + label("third") : ""}.`));
}

function showRanking() {
  const head = at("ranking").tHead, body = at("ranking").tBodies[0], q = Number(at("q").value || 1), fires = Number(at("fires").value || 0), find = at("find").value.trim().toLowerCase();
  const kept = document.activeElement && at("ranking").contains(document.activeElement) ? document.activeElement.dataset.key : null; // rows are made anew
  const index = key => D.columns.indexOf(key), all = D.rows[state.pair][state.method];
  const rows = all.filter(row => (row[index("q")] ?? 1) <= q && Math.max(row[index("fires_a")], row[index("fires_b")]) >= fires && titled(row[0]).toLowerCase().includes(find));
  const key = row => row[state.sort] === null ? -Infinity : D.columns[state.sort] === "z" ? Math.abs(row[state.sort]) : row[state.sort];
  rows.sort((x, y) => (key(x) - key(y)) * (state.down ? -1 : 1));
  head.replaceChildren(element("tr", {}, ...D.columns.map((column, i) => {
    const heading = element("th", { scope: "col", title: MEANINGS[column] || "" }, element("button", { type: "button", "data-key": column, onclick: () => { state.down = state.sort === i ? !state.down : true; state.sort = i; showRanking(); } }, HEADINGS[column]));
    if (state.sort === i) heading.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    return heading;
  })));
  body.replaceChildren(...rows.map(row => element("tr", { className: row[0] === state.latent ? "chosen" : "" }, ...row.map((value, i) => element("td", {},
    i === 0 && cards()[value] ? element("button", { type: "button", "data-key": String(value), onclick: () => { state.latent = value; showRanking(); showCard(); at("one").scrollIntoView({ behavior: "smooth" }); } }, titled(value)) : i === 0 ? titled(value) : text(value))))));
  if (kept) at("ranking").querySelector(`[data-key="${kept}"]`)?.focus({ preventScroll: true });
  at("count").textContent = `${rows.length} of ${all.length} latents`;
}

function choose(pairNumber, method) {
  state.pair = pairNumber; state.method = method;
  const latents = D.rows[pairNumber][method].map(row => row[0]).filter(latent => cards()[latent]);
  state.latent = latents.includes(state.latent) ? state.latent : latents[0] ?? null;
  [...at("pairs").children].forEach((tab, i) => { tab.setAttribute("aria-selected", i === pairNumber); tab.setAttribute("aria-controls", "panel"); tab.tabIndex = i === pairNumber ? 0 : -1; });
  at("name-a").textContent = label("a"); at("name-b").textContent = label("b"); at("name-third").textContent = label("third"); at("has-third").hidden = !pair().sizes[2];
  for (const [i, id] of ["x", "y"].entries()) at(id).replaceChildren(...latents.map((latent, j) => element("option", { value: latent, selected: j === Math.min(i, latents.length - 1) }, titled(latent))));
  showRanking(); showCard(); scatter();
}

const PHOTOS = new Set([...document.styleSheets[0].cssRules].map(rule => /^\.p(\d+)$/.exec(rule.selectorText || "")).filter(Boolean).map(found => Number(found[1])));
at("pairs").append(...D.pairs.map((each, i) => element("button", { type: "button", role: "tab", onclick: () => choose(i, state.method) }, `${each.name} (${each.sizes[0]} and ${each.sizes[1]})`)));
at("pairs").addEventListener("keydown", event => {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -state.pair, End: D.pairs.length - 1 - state.pair }[event.key];
  if (step !== undefined) { event.preventDefault(); choose((state.pair + step + D.pairs.length) % D.pairs.length, state.method); at("pairs").children[state.pair].focus(); }
});
at("method").append(...D.methods.map((each, i) => element("option", { value: i }, each)));
at("method").addEventListener("change", () => { state.latent = null; choose(state.pair, Number(at("method").value)); });
for (const id of ["q", "fires", "find"]) at(id).addEventListener("input", showRanking);
for (const id of ["x", "y"]) at(id).addEventListener("change", scatter);
choose(0, 0);
