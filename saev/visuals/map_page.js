const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), R = data.rows, C = data.columns;
const canvas = $("canvas"), context = canvas.getContext("2d", {alpha: false});
const sheet = document.createElement("canvas");  // the cells; names and cross are drawn over it
const MOST_PIXELS = 1.2e6, TOP = 20, FEWEST = 4;  // pixels of the sheet; height of the numbers; cells at the closest zoom
let codes;  // uint8 [R, C]: the size of a code, 255 for the largest of its latent
let bands, view, cross = null, marked = {rows: [], columns: []}, pending = false, colours;

async function load() {
  const bytes = Uint8Array.from(atob($("codes").textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  codes = new Uint8Array(await new Response(stream).arrayBuffer());
}

// sums[i * (C + 1) + j]: of the first i of n rows and j columns, modulo 2^32; the sum of any box is four look-ups.
function summed(values, n) {
  const sums = new Uint32Array((n + 1) * (C + 1));
  for (let i = 0; i < n; i++) {
    let line = 0;
    const at = (i + 1) * (C + 1) + 1, above = at - C - 1;
    for (let j = 0; j < C; j++) { line += values[i * C + j]; sums[at + j] = sums[above + j] + line; }
  }
  return sums;
}

// --- rows of the map as bands: single images, or the images of each node of a rank (and those of none)
function setBands(depth) {
  const stops = [];
  if (depth === 0) for (let i = 1; i <= R; i++) stops.push(i);
  else {
    let row = 0;
    for (const [, d, first, stop] of data.nodes) {
      if (d !== depth || stop === first) continue;
      if (first > row) stops.push(first);
      stops.push(stop); row = stop;
    }
    if (row < R) stops.push(R);
  }
  bands = {depth, stops, n: stops.length, of: new Int32Array(R)};
  for (let b = 0, i = 0; b < bands.n; b++) for (; i < stops[b]; i++) bands.of[i] = b;
  bands.sums = summed(depth ? means() : codes, bands.n);
}

// The mean code of each of n bands of rows, [n, C]; `of` is the band of each row.
function averages(of, n) {
  const mean = new Float32Array(n * C), size = new Float32Array(n);
  for (let i = 0; i < R; i++) {
    size[of[i]]++;
    for (let j = 0, at = of[i] * C, from = i * C; j < C; j++) mean[at + j] += codes[from + j];
  }
  for (let at = 0; at < n * C; at++) mean[at] /= Math.max(1, size[Math.floor(at / C)]);
  return mean;
}
// The mean code of each band, 255 for the largest of the latent's.
function means() {
  const mean = averages(bands.of, bands.n), largest = new Float32Array(C).fill(1e-9);
  mean.forEach((value, at) => { largest[at % C] = Math.max(largest[at % C], value); });
  return Uint8Array.from(mean, (value, at) => Math.round(255 * value / largest[at % C]));
}

// --- columns: as they come, neighbours have similar codes; or by the lowest node with the largest mean code
const given = {latents: data.latents, largest: data.largest, firing: data.firing};
let columns = Int32Array.from(given.latents, (_, column) => column);  // of the given order
function byNode() {
  const of = new Int32Array(R), lowest = data.nodes.filter(([, depth, first, stop]) => depth === data.ranks.length && stop > first);
  lowest.forEach(([, , first, stop], node) => of.fill(node + 1, first, stop));  // 0: rows without such a node
  const mean = averages(of, lowest.length + 1), best = new Int32Array(C), part = new Float32Array(C);
  for (let j = 0; j < C; j++) {
    let sum = 0, most = -1;
    for (let node = 1; node <= lowest.length; node++) {
      const value = mean[node * C + j];
      sum += value;
      if (value > most) { most = value; best[j] = node; }
    }
    part[j] = sum ? most / sum : 0;
  }
  return Int32Array.from(best.keys()).sort((a, b) => best[a] - best[b] || part[b] - part[a] || a - b);
}
function setColumns(order) {  // of the columns as they stand
  const moved = new Uint8Array(R * C);
  for (let i = 0; i < R; i++) for (let j = 0; j < C; j++) moved[i * C + j] = codes[i * C + order[j]];
  codes = moved; columns = order.map(column => columns[column]);
  for (const name in given) data[name] = Array.from(columns, column => given[name][column]);
  setBands(bands.depth);
}
const bandStart = band => band ? bands.stops[band - 1] : 0;
const whole = () => { view = {x0: 0, x1: C, y0: 0, y1: bands.n}; };

// --- size and place of the map on the canvas, in CSS pixels
function frame() {
  const width = canvas.clientWidth, height = canvas.clientHeight, ranks = bands.depth || data.ranks.length;
  const last = width < 600 ? 76 : 150;
  return {width, height, strip: 16, left: last + 16 * (ranks - 1), top: TOP, ranks};
}

function setColours() {
  const stops = [[0, 255, 255, 255], [.25, 158, 207, 242], [.55, 47, 143, 203], [.8, 10, 79, 138], [1, 4, 32, 60]];
  const power = Number($("contrast").value);
  colours = new Uint32Array(1021);
  for (let i = 0; i <= 1020; i++) {
    const value = (i / 1020) ** power, k = Math.max(1, stops.findIndex(stop => stop[0] >= value));
    const [a, b] = [stops[k - 1], stops[k]], t = (value - a[0]) / (b[0] - a[0]);
    const [red, green, blue] = [1, 2, 3].map(c => Math.round(a[c] + t * (b[c] - a[c])));
    colours[i] = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
  }
}

// The cells that each of n pixels covers, at least one: [first, stop).
function cells(from, to, n, most) {
  const first = new Int32Array(n), stop = new Int32Array(n), step = (to - from) / n;
  for (let i = 0; i < n; i++) {
    first[i] = Math.min(most - 1, Math.floor(from + i * step + 1e-9));
    stop[i] = Math.min(most, Math.max(first[i] + 1, Math.floor(from + (i + 1) * step + 1e-9)));
  }
  return [first, stop];
}

function heat(width, height) {
  const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const [c0, c1] = cells(view.x0, view.x1, width, C), [b0, b1] = cells(view.y0, view.y1, height, bands.n);
  const sums = bands.sums;
  for (let y = 0; y < height; y++) {
    const at = y * width;
    if (y && b0[y] === b0[y - 1] && b1[y] === b1[y - 1]) { pixels.copyWithin(at, at - width, at); continue; }
    const low = b0[y] * (C + 1), high = b1[y] * (C + 1), scale = 4 / (b1[y] - b0[y]);
    for (let x = 0; x < width; x++) {
      const a = c0[x], b = c1[x];
      const sum = (sums[high + b] - sums[high + a] - sums[low + b] + sums[low + a]) >>> 0;
      pixels[at + x] = colours[(sum * scale / (b - a)) | 0];
    }
  }
  return image;
}

function draw() {
  pending = false;
  const f = frame(), wide = f.width - f.left, high = f.height - f.top;
  if (wide < 10 || high < 10) return;
  const ratio = window.devicePixelRatio || 1, [w, h] = [Math.round(f.width * ratio), Math.round(f.height * ratio)];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  // With nothing to move up or down a finger scrolls the page.
  canvas.style.touchAction = view.y1 - view.y0 < bands.n ? "none" : "pan-y";
  const fine = Math.min(ratio, Math.sqrt(MOST_PIXELS / (wide * high)));
  sheet.width = Math.round(wide * fine); sheet.height = Math.round(high * fine);
  sheet.getContext("2d").putImageData(heat(sheet.width, sheet.height), 0, 0);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "#fff"; context.fillRect(0, 0, f.width, f.height);
  context.imageSmoothingEnabled = false;
  context.drawImage(sheet, f.left, f.top, wide, high);
  const px = column => f.left + (column - view.x0) / (view.x1 - view.x0) * wide;
  const py = band => f.top + (band - view.y0) / (view.y1 - view.y0) * high;
  names(f, py);
  numbers(f, px);
  context.save(); context.beginPath(); context.rect(f.left, f.top, wide, high); context.clip();
  context.fillStyle = "rgba(213, 94, 0, .85)";
  for (const column of marked.columns) context.fillRect(px(column), f.top, Math.max(1.5, px(column + 1) - px(column)), 5);
  for (const row of marked.rows) context.fillRect(f.left, py(bands.of[row]), 6, Math.max(1.5, py(1) - py(0)));
  if (cross) {
    context.strokeStyle = "#d55e00"; context.lineWidth = 1;
    const [x, y, cw, ch] = [px(cross.column), py(cross.band), px(1) - px(0), py(1) - py(0)];
    context.strokeRect(x - 1, f.top - 1, Math.max(cw, 1) + 2, high + 2);
    context.strokeRect(f.left - 1, y - 1, wide + 2, Math.max(ch, 1) + 2);
  }
  context.restore();
}
const redraw = () => { if (!pending) { pending = true; requestAnimationFrame(draw); } };

// The names of the nodes: ranks from left to right, upright in strips, the lowest across.
function names(f, py) {
  context.save(); context.beginPath(); context.rect(0, f.top, f.left, f.height - f.top); context.clip();
  context.font = "12px system-ui, sans-serif"; context.textBaseline = "middle";
  const count = new Array(f.ranks + 1).fill(0);
  for (const [value, depth, first, stop] of data.nodes) {
    if (depth > f.ranks || stop === first) continue;
    const even = count[depth]++ % 2 === 0;
    const y0 = Math.max(f.top, py(bands.of[first])), y1 = Math.min(f.height, py(bands.of[stop - 1] + 1));
    if (y1 <= y0) continue;
    const lowest = depth === f.ranks, x = f.strip * (depth - 1), width = lowest ? f.left - x : f.strip;
    context.fillStyle = even ? "#e9edf2" : "#d3dae3"; context.fillRect(x, y0, width - 1, y1 - y0);
    context.fillStyle = "#1d1f23";
    if (lowest && y1 - y0 >= 11) context.fillText(cut(value, width - 8), x + 4, (y0 + y1) / 2);
    if (!lowest && y1 - y0 >= 22) {
      context.save(); context.translate(x + f.strip / 2, (y0 + y1) / 2); context.rotate(-Math.PI / 2);
      const text = cut(value, y1 - y0 - 6); context.fillText(text, -context.measureText(text).width / 2, 0);
      context.restore();
    }
  }
  context.restore();
}

// As many letters of a text as fit.
function cut(text, width) {
  if (context.measureText(text).width <= width) return text;
  let n = text.length;
  while (n > 1 && context.measureText(text.slice(0, n) + "…").width > width) n--;
  return text.slice(0, n) + "…";
}

function numbers(f, px) {
  context.font = "11px system-ui, sans-serif"; context.textBaseline = "middle"; context.fillStyle = "#1d1f23";
  const cell = px(1) - px(0), every = Math.ceil(44 / cell);
  if (cell < 3) {
    const text = `latents ${Math.floor(view.x0) + 1} to ${Math.ceil(view.x1)} of ${C}`;
    context.fillText(text, f.left + 4, f.top / 2);
    return;
  }
  for (let column = Math.floor(view.x0); column < view.x1; column++) {
    if (column % every) continue;
    const x = px(column);
    if (x < f.left || x > f.width - 24) continue;
    context.fillRect(x, f.top - 4, 1, 4); context.fillText(data.latents[column], x + 2, f.top / 2 - 1);
  }
}

// --- moving
function clamp() {
  for (const [low, high, most] of [["x0", "x1", C], ["y0", "y1", bands.n]]) {
    const span = Math.min(most, Math.max(Math.min(FEWEST, most), view[high] - view[low]));
    const middle = (view[low] + view[high]) / 2;
    view[low] = Math.min(Math.max(0, middle - span / 2), most - span); view[high] = view[low] + span;
  }
  redraw();
}
// Zoom by a factor about a point, given as fractions of the map.
function zoom(fx, fy, u = .5, v = .5) {
  const x = view.x0 + u * (view.x1 - view.x0), y = view.y0 + v * (view.y1 - view.y0);
  view.x0 = x - (x - view.x0) / fx; view.x1 = x + (view.x1 - x) / fx;
  view.y0 = y - (y - view.y0) / fy; view.y1 = y + (view.y1 - y) / fy;
  clampInside(x, y, u, v);
}
function clampInside(x, y, u, v) {  // keep the point under the pointer where the closest zoom is reached
  const [w, h] = [Math.max(Math.min(FEWEST, C), view.x1 - view.x0), Math.max(Math.min(FEWEST, bands.n), view.y1 - view.y0)];
  Object.assign(view, {x0: x - u * w, x1: x + (1 - u) * w, y0: y - v * h, y1: y + (1 - v) * h});
  clamp();
}
function pan(dx, dy) { view.x0 += dx; view.x1 += dx; view.y0 += dy; view.y1 += dy; clamp(); }
function showRows(first, stop) {
  const [a, b] = [bands.of[first], bands.of[Math.max(first, stop - 1)] + 1], margin = (b - a) * .03;
  view.y0 = a - margin; view.y1 = b + margin; clamp();
}
function showColumn(column) {
  const span = Math.min(view.x1 - view.x0, Math.max(60, C / 20));
  view.x0 = column + .5 - span / 2; view.x1 = column + .5 + span / 2; clamp();
}

// --- the cell under the pointer
function position(event) {
  const box = canvas.getBoundingClientRect(), f = frame();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  return {x, y, u: (x - f.left) / (f.width - f.left), v: (y - f.top) / (f.height - f.top), f};
}
function pick({u, v}) {
  const column = Math.floor(view.x0 + u * (view.x1 - view.x0)), band = Math.floor(view.y0 + v * (view.y1 - view.y0));
  setCross(Math.min(C - 1, Math.max(0, column)), Math.min(bands.n - 1, Math.max(0, band)));
}
function setCross(column, band) {
  cross = {column, band};
  const first = bandStart(band), stop = bands.stops[band], latent = data.latents[column];
  const above = data.nodes.filter(([, depth, from, to]) => from <= first && stop <= to && (!bands.depth || depth <= bands.depth));
  const taxon = [...data.common, ...above.map(node => node[0])].join(" › ") || "no value";
  let sum = 0, active = 0;
  for (let i = first; i < stop; i++) { const code = codes[i * C + column]; sum += code; active += code > 0; }
  const code = (sum / (stop - first) / 255 * data.largest[column]).toPrecision(2);
  const best = data.best[latent], note = best ? `; best latent of ${data.nodes[best[0]][0]}, F1 ${best[1].toFixed(3)}` : "";
  const what = bands.depth ? `${stop - first} images` : data.paths[first];
  const value = bands.depth ? `mean code ${sum ? code : 0}, not 0 on ${active}` : `code ${sum ? code : 0}`;
  $("where").textContent = "";
  const bold = document.createElement("b");
  bold.textContent = taxon;
  $("where").append(bold, ` · ${what}`, document.createElement("br"), `latent ${latent}${data.names[latent] ? ` (${data.names[latent]})` : ""}: ${value} `,
    document.createElement("br"), `not 0 on ${data.firing[column]} of the ${R} images shown, largest code ${data.largest[column]}${note}`);
  const photo = $("photo"), one = data.images[first];
  photo.className = "view p" + one;
  photo.hidden = Boolean(bands.depth) || getComputedStyle(photo).backgroundImage === "none";
  redraw();
}

// --- pointer, wheel, keys
const pointers = new Map();
let moved = 0, apart = 0;
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, position(event)); moved = 0; apart = 0;
});
canvas.addEventListener("pointermove", event => {
  const now = position(event), before = pointers.get(event.pointerId);
  if (!before) { if (now.u >= 0 && now.v >= 0) pick(now); return; }
  pointers.set(event.pointerId, now);
  const f = now.f, [sx, sy] = [(view.x1 - view.x0) / (f.width - f.left), (view.y1 - view.y0) / (f.height - f.top)];
  moved += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
  if (pointers.size === 2) {
    const [a, b] = [...pointers.values()], distance = Math.hypot(a.x - b.x, a.y - b.y);
    if (apart) zoom(distance / apart, distance / apart, (a.u + b.u) / 2, (a.v + b.v) / 2);
    apart = distance;
    pan((before.x - now.x) * sx / 2, (before.y - now.y) * sy / 2);
  } else pan(before.u < 0 ? 0 : (before.x - now.x) * sx, before.v < 0 ? 0 : (before.y - now.y) * sy);
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => {
  const single = pointers.size === 1;
  pointers.delete(event.pointerId); apart = 0;
  if (name === "pointerup" && single && moved < 5) click(position(event));
});
function click(at) {
  if (at.u >= 0 && at.v >= 0) { pick(at); return; }
  if (at.v < 0) return;
  const depth = Math.min(at.f.ranks, Math.floor(at.x / at.f.strip) + 1);
  const band = Math.floor(view.y0 + at.v * (view.y1 - view.y0)), row = bandStart(Math.min(bands.n - 1, Math.max(0, band)));
  const node = data.nodes.findIndex(([, d, first, stop]) => d === depth && first <= row && row < stop);
  if (node < 0) return;
  showRows(data.nodes[node][2], data.nodes[node][3]);
  $("where").textContent = `${data.nodes[node][0]}: ${data.nodes[node][3] - data.nodes[node][2]} images shown. `;
  const link = document.createElement("a");
  link.href = "#node-" + node; link.textContent = "its latents"; link.onclick = () => { $("node-" + node).open = true; };
  $("where").append(link);
}
canvas.addEventListener("dblclick", event => { const at = position(event); if (at.u >= 0 && at.v >= 0) zoom(2, 2, at.u, at.v); });
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const at = position(event), factor = Math.exp(-Math.max(-100, Math.min(100, event.deltaY * (event.deltaMode ? 30 : 1))) / 250);
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    pan((event.deltaX || event.deltaY) / 800 * (view.x1 - view.x0), 0);
    return;
  }
  zoom(at.u < 0 ? 1 : factor, at.v < 0 ? 1 : factor, Math.max(0, at.u), Math.max(0, at.v));
}, {passive: false});
canvas.addEventListener("keydown", event => {
  const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}, arrow = arrows[event.key];
  const [w, h] = [view.x1 - view.x0, view.y1 - view.y0];
  if (arrow && event.shiftKey) pan(arrow[0] * w / 4, arrow[1] * h / 4);
  else if (arrow) {
    const at = cross || {column: Math.floor((view.x0 + view.x1) / 2), band: Math.floor((view.y0 + view.y1) / 2)};
    const [sx, sy] = [Math.max(1, Math.round(w / 200)), Math.max(1, Math.round(h / 200))];  // at least three pixels
    setCross(Math.min(C - 1, Math.max(0, at.column + arrow[0] * sx)), Math.min(bands.n - 1, Math.max(0, at.band + arrow[1] * sy)));
    pan(Math.min(0, cross.column - view.x0) + Math.max(0, cross.column + 1 - view.x1), Math.min(0, cross.band - view.y0) + Math.max(0, cross.band + 1 - view.y1));
  } else if ("+=-".includes(event.key)) {
    const factor = event.key === "-" ? 1 / 1.5 : 1.5, clip = value => Math.min(1, Math.max(0, value));
    if (cross) zoom(factor, factor, clip((cross.column + .5 - view.x0) / w), clip((cross.band + .5 - view.y0) / h));
    else zoom(factor, factor);
  } else if (event.key === "0") { whole(); redraw(); }
  else return;
  event.preventDefault();
});

// --- buttons, search, nodes
for (const [id, fx, fy] of [["in", 1.6, 1.6], ["out", .625, .625], ["xin", 1.6, 1], ["xout", .625, 1], ["yin", 1, 1.6], ["yout", 1, .625]])
  $(id).addEventListener("click", () => zoom(fx, fy));
$("whole").addEventListener("click", () => { whole(); redraw(); });
$("contrast").addEventListener("input", () => { setColours(); redraw(); });
$("collapse").addEventListener("change", event => {
  setBands(Number(event.target.value)); cross = null; whole();
  $("contrast").value = bands.depth ? 1 : .5; setColours(); redraw();
  $("scale").textContent = bands.depth ? "Mean code of the images, as a fraction of the latent’s largest mean" : "Code, as a fraction of the latent’s largest";
});

$("columns").addEventListener("change", event => {
  const back = new Int32Array(C);
  columns.forEach((column, now) => { back[column] = now; });
  setColumns(event.target.value === "node" ? byNode() : back);
  cross = null; search();
});

let hits = [], current = -1;
function search() {
  const text = $("search").value.trim().toLowerCase();
  hits = []; current = -1; marked = {rows: [], columns: []};
  if (text) {
    data.latents.forEach((latent, column) => { if (String(latent) === text || (data.names[latent] || "").toLowerCase().includes(text)) { hits.push({column}); marked.columns.push(column); } });
    data.nodes.forEach(([value, , first, stop], node) => { if (stop > first && value.toLowerCase().includes(text)) hits.push({node, first, stop}); });
    data.paths.forEach((path, row) => { if (path.toLowerCase().includes(text)) { hits.push({row}); marked.rows.push(row); } });
  }
  $("hits").textContent = !text ? "" : hits.length ? `${hits.length} found: Enter shows them in turn` : "nothing found";
  redraw();
}
function next() {
  if (!hits.length) return;
  current = (current + 1) % hits.length;
  const hit = hits[current], middle = Math.floor((view.x0 + view.x1) / 2);
  if (hit.column !== undefined) { showColumn(hit.column); setCross(hit.column, cross ? cross.band : Math.floor((view.y0 + view.y1) / 2)); }
  else if (hit.node !== undefined) showRows(hit.first, hit.stop);
  else { showRows(Math.max(0, hit.row - 10), Math.min(R, hit.row + 11)); setCross(cross ? cross.column : middle, bands.of[hit.row]); }
  $("hits").textContent = `${current + 1} of ${hits.length}`;
}
$("search").addEventListener("input", search);
$("search").addEventListener("keydown", event => { if (event.key === "Enter") next(); });
document.querySelectorAll(".go").forEach(button => button.addEventListener("click", () => {
  const column = data.latents.indexOf(Number(button.dataset.latent));
  const {first, stop} = button.dataset;
  if (column < 0) return;
  marked = {rows: [], columns: [column]};
  whole(); showColumn(column); setCross(column, bands.of[Math.min(R - 1, Number(first))]);
  if (Number(stop) - Number(first) < R / 3) { const margin = Number(stop) - Number(first); showRows(Math.max(0, first - margin), Math.min(R, Number(stop) + margin)); }
  $("map").scrollIntoView({behavior: "smooth"});
}));
document.querySelectorAll(".go").forEach(button => { button.disabled = !data.latents.includes(Number(button.dataset.latent)); });
const ready = load().then(() => {
  setColours(); setBands(0); whole();
  new ResizeObserver(redraw).observe(canvas);
  $("where").textContent = "Point at a cell, or press an arrow key on the map.";
  draw();
}).catch(error => { $("where").textContent = "The map cannot be drawn in this browser: " + error.message; });
