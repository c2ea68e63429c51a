// The marks of a latent on a photo: a veil that is dark where its code is low, and a dark and a light line around the patches above half
// of its highest value. `map` has a byte per patch, by rows from the top left corner, 255 at the highest value. Sizes follow the photo's.
const DARKEST = 0.56; // opacity of the veil at code 0
const bytesOf = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const veilOf = code => DARKEST * (1 - Math.sqrt(code / 255));

function outlineOf(map, height, width) {
  const strong = (y, x) => y >= 0 && x >= 0 && y < height && x < width && map[y * width + x] > 127;
  let path = "";
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      if (!strong(y, x)) continue;
      if (!strong(y - 1, x)) path += `M${x} ${y}h1`;
      if (!strong(y + 1, x)) path += `M${x} ${y + 1}h1`;
      if (!strong(y, x - 1)) path += `M${x} ${y}v1`;
      if (!strong(y, x + 1)) path += `M${x + 1} ${y}v1`;
    }
  return path;
}

function marksOf(map, height, width) {
  const box = document.createElement("span"), path = outlineOf(map, height, width);
  box.className = "marks";
  box.innerHTML = `<canvas width="${width}" height="${height}"></canvas><svg viewBox="0 0 ${width} ${height}" preserveAspectRatio="none">` +
    `<path class="dark" d="${path}"/><path class="light" d="${path}"/></svg>`;
  const draw = box.firstChild.getContext("2d"), pixels = draw.createImageData(width, height);
  for (let i = 0; i < width * height; i++) pixels.data[4 * i + 3] = Math.round(255 * veilOf(map[i] || 0));
  draw.putImageData(pixels, 0, 0);
  return box;
}

// Mark an element with data-grid ("height width"), data-map (base64; empty: 0 everywhere) and perhaps data-mask, a bit per patch: the
// patches of a class, around which a line is dashed.
function mark(view) {
  const [height, width] = view.dataset.grid.split(" ").map(Number), marks = marksOf(bytesOf(view.dataset.map), height, width);
  if (view.dataset.mask) {
    const bits = bytesOf(view.dataset.mask), of = Uint8Array.from({ length: height * width }, (_, i) => (bits[i >> 3] >> (7 - (i % 8))) & 1 && 255);
    const path = outlineOf(of, height, width);
    marks.lastChild.insertAdjacentHTML("afterbegin", `<path class="mask" d="${path}"/><path class="mask dashes" d="${path}"/>`);
  }
  view.append(marks);
}
