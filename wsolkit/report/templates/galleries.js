// Try it in the page: threshold and percentile move mask, box and IoU of every picture of the galleries.
// The boxes are Python's, at every setting: cubicLevels is wsolkit/gallery_maps.py, largestBoxes is largest_boxes of
// wsolkit/component_tree.py, levelAt and boxAt are wsolkit/boxes.py and measuring.py.
(() => {
  "use strict";
  const section = document.querySelector("section.galleries");
  if (!section) return;
  const find = (id) => document.getElementById("gallery-" + id);
  const data = JSON.parse(find("data").textContent);
  const [height, width] = data.frame;
  const A = -0.75; // OpenCV's cubic kernel

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // ------------------------------------------------------------------------------------------------ from map to levels

  // `lines` lines of `count` values each grow to `length` values each; the order of operations is that of gallery_maps.py.
  function grow(values, count, lines, step, stride, length) {
    const grown = new Float64Array(length * lines); // value i of line k stands at i * lines + k
    for (let i = 0; i < length; i++) {
      const place = (i + 0.5) * (count / length) - 0.5, before = Math.floor(place), x = place - before, y = 1 - x;
      const w0 = ((A * (x + 1) - 5 * A) * (x + 1) + 8 * A) * (x + 1) - 4 * A;
      const w1 = ((A + 2) * x - (A + 3)) * x * x + 1, w2 = ((A + 2) * y - (A + 3)) * y * y + 1, w3 = 1 - w0 - w1 - w2;
      const [a, b, c, d] = [-1, 0, 1, 2].map((k) => step * Math.min(Math.max(before + k, 0), count - 1));
      for (let k = 0; k < lines; k++) {
        const line = k * stride;
        grown[i * lines + k] = values[a + line] * w0 + values[b + line] * w1 + values[c + line] * w2 + values[d + line] * w3;
      }
    }
    return grown;
  }

  function cubicLevels(scores, h, w) {
    const levels = new Uint8Array(height * width);
    const across = grow(scores, w, h, 1, w, width); // value of column x in row k at x * h + k
    const grown = grow(across, h, width, 1, h, height); // at y * width + x
    let low = Infinity, high = -Infinity;
    for (const value of grown) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    const span = high - low;
    if (span > 0 && span < Infinity) for (let i = 0; i < grown.length; i++) levels[i] = ((grown[i] - low) / span) * 255;
    return levels;
  }

  function levelsOf(picture) {
    if (!picture.map) return new Uint8Array(height * width); // constant or not finite
    const view = new DataView(bytes(picture.map).buffer), [h, w] = picture.shape;
    const levels = cubicLevels(Float64Array.from({ length: h * w }, (_, i) => view.getFloat32(4 * i, true)), h, w);
    const fixes = bytes(picture.fixes);
    for (let place = 0, i = 0; i < fixes.length; i++) {
      let scale = 1;
      for (; fixes[i] > 127; i++, scale *= 128) place += (fixes[i] - 128) * scale;
      place += fixes[i++] * scale;
      levels[place] = fixes[i];
    }
    return levels;
  }

  // ------------------------------------------------------------------------------------------------ from levels to boxes

  const stride = width + 2, size = stride * (height + 2); // of a frame with one pixel of padding

  // A pixel gets the lowest level over which a 4-connected way leads out of the frame: every hole of every mask is filled.
  function fillHoles(levels) {
    const flat = new Uint8Array(size), known = new Uint8Array(size).fill(1);
    const following = new Int32Array(size).fill(-1), waiting = new Int32Array(256).fill(-1);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const pixel = (y + 1) * stride + x + 1;
        flat[pixel] = levels[y * width + x];
        if (x > 0 && y > 0 && x < width - 1 && y < height - 1) known[pixel] = 0;
        else (following[pixel] = waiting[flat[pixel]]), (waiting[flat[pixel]] = pixel);
      }
    }
    const steps = [-1, 1, -stride, stride];
    for (let level = 0; level < 256; level++) {
      while (waiting[level] >= 0) {
        const pixel = waiting[level];
        waiting[level] = following[pixel];
        for (const step of steps) {
          const other = pixel + step;
          if (known[other]) continue;
          known[other] = 1;
          const reached = Math.max(flat[other], level);
          flat[other] = reached;
          following[other] = waiting[reached];
          waiting[reached] = other;
        }
      }
    }
    return flat;
  }

  // The box [x, y, x + w, y + h] of the largest contour of the mask `levels > t`, at 4 t; components grow as t falls.
  // Twice the area of a contour: 2 x 2 blocks with four pixels count two, with three one. Of equal areas the contour
  // whose first pixel comes last is OpenCV's first.
  function largestBoxes(levels) {
    const filled = fillHoles(levels), boxes = new Int32Array(4 * 256).fill(-1);
    const starts = new Int32Array(258), order = new Int32Array(height * width);
    for (let y = 1; y <= height; y++) for (let x = 1; x <= width; x++) starts[filled[y * stride + x] + 2]++;
    for (let level = 2; level < 258; level++) starts[level] += starts[level - 1];
    for (let y = 1; y <= height; y++) {
      for (let x = 1; x <= width; x++) order[starts[filled[y * stride + x] + 1]++] = y * stride + x;
    }
    const parent = new Int32Array(size).fill(-1), count = new Int32Array(size).fill(1), area = new Int32Array(size);
    const first = new Int32Array(size), births = [];
    const left = new Int32Array(size), top = new Int32Array(size), right = new Int32Array(size), bottom = new Int32Array(size);
    const around = [-stride, -stride + 1, 1, stride + 1, stride, stride - 1, -1, -stride - 1];
    const rootOf = (pixel) => {
      while (parent[pixel] !== pixel) pixel = parent[pixel] = parent[parent[pixel]];
      return pixel;
    };
    const widen = (root, x0, y0, x1, y1) => {
      if (x0 < left[root]) left[root] = x0;
      if (y0 < top[root]) top[root] = y0;
      if (x1 > right[root]) right[root] = x1;
      if (y1 > bottom[root]) bottom[root] = y1;
    };
    let best = -1, bestArea = -1, bestFirst = -1;
    const offer = (root) => {
      if (area[root] > bestArea || (area[root] === bestArea && first[root] > bestFirst)) {
        best = root, bestArea = area[root], bestFirst = first[root];
      }
    };
    for (let level = 255; level > 0; level--) {
      for (let i = starts[level]; i < starts[level + 1]; i++) {
        const pixel = order[i], y = Math.floor(pixel / stride) - 1, x = (pixel % stride) - 1;
        let root = -1, seen = 0;
        for (let k = 0; k < 8; k++) {
          let other = parent[pixel + around[k]];
          if (other < 0) continue;
          seen |= 1 << k;
          if (other === root) continue;
          other = rootOf(other);
          if (root < 0) root = other;
          else if (other !== root) {
            if (count[other] > count[root]) [root, other] = [other, root];
            parent[other] = root;
            count[root] += count[other];
            area[root] += area[other];
            first[root] = Math.min(first[root], first[other]);
            widen(root, left[other], top[other], right[other], bottom[other]);
          }
        }
        if (root < 0) {
          root = first[pixel] = pixel;
          left[root] = right[root] = x;
          top[root] = bottom[root] = y;
          births.push(root);
        } else {
          count[root]++;
          first[root] = Math.min(first[root], pixel);
          widen(root, x, y, x, y);
          const wheel = seen | (seen << 8);
          for (let k = 0; k < 8; k += 2) {
            const block = (wheel >> k) & 7; // a pixel counts half as the third and as the fourth of its block
            if (block === 7 || block === 3 || block === 5 || block === 6) area[root]++;
          }
        }
        parent[pixel] = root;
      }
      let rescan = false;
      if (best >= 0) {
        best = rootOf(best);
        rescan = area[best] === bestArea && first[best] < bestFirst;
        bestArea = area[best], bestFirst = first[best];
      }
      // where the best one lost its rank among equals, one that did not change may have it now
      if (rescan) births.forEach((root) => parent[root] === root && offer(root));
      else for (let i = starts[level]; i < starts[level + 1]; i++) offer(rootOf(order[i]));
      if (best >= 0) boxes.set([left[best], top[best], right[best] + 1, bottom[best] + 1], 4 * (level - 1));
    }
    return boxes;
  }

  // numpy's percentile (linear interpolation) of the levels, from how many pixels there are up to each level.
  function percentileOf(upTo, percentile) {
    const last = upTo[255] - 1, at = last * (percentile / 100), before = Math.floor(at), t = at - before;
    const value = (place) => upTo.findIndex((count) => count > place);
    const a = value(before), b = value(Math.min(before + 1, last));
    return t >= 0.5 ? b - (b - a) * (1 - t) : a + (b - a) * t;
  }

  function iouOf(box, truths) {
    let best = 0;
    for (const [x0, y0, x1, y1] of truths) {
      const w = Math.max(Math.min(box[2], x1) - Math.max(box[0], x0) + 1, 0);
      const h = Math.max(Math.min(box[3], y1) - Math.max(box[1], y0) + 1, 0);
      const areas = (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (x1 - x0 + 1) * (y1 - y0 + 1);
      best = Math.max(best, (w * h) / (areas - w * h));
    }
    return best;
  }

  // A picture's levels, the boxes at all of them, and the sums for the percentile: computed once, when first needed.
  function prepare(picture) {
    if (picture.levels) return;
    picture.levels = levelsOf(picture);
    picture.boxes = largestBoxes(picture.levels);
    picture.upTo = new Int32Array(256);
    for (const level of picture.levels) picture.upTo[level]++;
    for (let level = 1; level < 256; level++) picture.upTo[level] += picture.upTo[level - 1];
    picture.max = picture.upTo.indexOf(height * width);
  }

  // {level, empty, box, iou} of a picture at a setting; an empty mask's box is the protocol's.
  function boxAt(picture, threshold, percentile) {
    prepare(picture);
    const level = Math.floor(threshold * (percentile === 100 ? picture.max : percentileOf(picture.upTo, percentile)));
    const empty = level >= picture.max;
    let box = data.clamped ? [0, 0, 0, 0] : [0, 0, width, height];
    if (!empty) box = Array.from(picture.boxes.subarray(4 * level, 4 * level + 4));
    if (data.clamped) box = box.map((corner, i) => Math.min(corner, (i % 2 ? height : width) - 1));
    return { level, empty, box, iou: iouOf(box, picture.truths) };
  }

  // ------------------------------------------------------------------------------------------------ onto the page

  const state = { threshold: data.threshold, percentile: data.percentile };
  const figures = [...section.querySelectorAll("figure[data-picture]")].map((figure) => {
    const canvas = document.createElement("canvas"); // between the photo and the boxes
    canvas.width = width, canvas.height = height;
    canvas.setAttribute("aria-hidden", "true");
    figure.querySelector(".picture").after(canvas);
    const part = (name) => figure.querySelector("." + name);
    return {
      figure, picture: data.pictures[figure.dataset.picture], brush: canvas.getContext("2d"), painted: -1,
      alt: part("picture"), rectangles: figure.querySelectorAll("rect.predicted"), mark: part("mark"), iou: part("iou"), blank: part("blank"),
    };
  });
  const pixels = new ImageData(width, height), shade = new Uint32Array(pixels.data.buffer);
  const SHADE = new Uint32Array(new Uint8Array([0, 0, 0, 120]).buffer)[0]; // what is not in the mask gets dark

  function paint(item, level) {
    if (item.painted === level) return;
    const levels = item.picture.levels;
    for (let i = 0; i < levels.length; i++) shade[i] = levels[i] > level ? 0 : SHADE;
    item.brush.putImageData(pixels, 0, 0);
    item.painted = level;
  }

  const iouText = (value) => value >= 0.495 && value < 0.5 ? value.toFixed(3) : two(value); // a miss must not read 0.50
  const two = (value) => (value === 0.125 || value === 0.625 ? value - 1e-9 : value).toFixed(2); // ties as Python rounds them

  function show(item, found) {
    const [x0, y0] = found.box, w = Math.min(found.box[2], width - 1) - x0 + 1, h = Math.min(found.box[3], height - 1) - y0 + 1;
    const hidden = found.empty && data.clamped, hit = found.iou >= 0.5;
    for (const rectangle of item.rectangles) {
      for (const [name, value] of Object.entries({ x: x0, y: y0, width: w, height: h })) rectangle.setAttribute(name, value);
      rectangle.setAttribute("visibility", hidden ? "hidden" : "visible");
    }
    item.figure.dataset.box = found.box.join(" ");
    item.figure.dataset.iou = found.iou;
    item.iou.textContent = iouText(found.iou);
    item.blank.hidden = !found.empty;
    item.mark.textContent = hit ? "✓" : "✗";
    item.mark.className = hit ? "mark hit" : "mark miss";
    item.mark.setAttribute("aria-label", hit ? "hit" : "miss");
    const covers = Math.floor((100 * w * h) / (width * height) + 0.5);
    const words = hidden ? "and there is no predicted box." : `the predicted box ${covers}\u00a0%.`;
    item.alt.setAttribute("aria-label", `${item.alt.dataset.alt}, ${words}`);
  }

  function summary(found, kind) {
    const mean = found.reduce((sum, { iou }) => sum + iou, 0) / found.length;
    const share = Math.round((100 * found.filter(({ iou }) => iou >= 0.5).length) / found.length);
    return `${found.length} ${kind}: mean IoU ${mean.toFixed(2)}, ${share}\u00a0% ≥\u00a00.5`;
  }

  let speaking = 0;
  function update() {
    const found = data.pictures.map((picture) => boxAt(picture, state.threshold, state.percentile));
    const masked = find("mask").checked;
    for (const item of figures) {
      const here = found[item.figure.dataset.picture];
      show(item, here);
      if (masked) paint(item, here.level);
    }
    const moved = state.threshold !== data.threshold || state.percentile !== data.percentile;
    section.classList.toggle("moved", moved);
    find("threshold-value").textContent = String(Math.round(state.threshold * 1e4) / 1e4);
    find("percentile-value").textContent = state.percentile === 100 ? "100 (max)" : String(state.percentile);
    find("sum").textContent =
      summary(found, "pictures") + "\n" + summary(data.random.map((number) => found[number]), "random ones");
  }

  function speak() { // a screen reader hears the outcome, not every step
    clearTimeout(speaking);
    speaking = setTimeout(() => { find("said").textContent = find("sum").textContent; }, 800);
  }

  let waiting = false;
  function soon() {
    if (!waiting) requestAnimationFrame(() => { waiting = false; update(); });
    waiting = true;
    speak();
  }

  const sliders = { threshold: find("threshold"), percentile: find("percentile") };
  function reset() {
    for (const [name, slider] of Object.entries(sliders)) {
      slider.min = Math.min(slider.min, data[name]);
      slider.max = Math.max(slider.max, data[name]);
      slider.value = state[name] = data[name];
    }
  }
  function switchLayers() {
    for (const layer of ["heat", "mask"]) section.classList.toggle("no-" + layer, !find(layer).checked);
  }
  let touched = false;
  for (const [name, slider] of Object.entries(sliders)) {
    slider.addEventListener("input", () => {
      state[name] = Number(slider.value);
      if (!touched) find("mask").checked = touched = true; // the first move shows what moves
      switchLayers();
      soon();
    });
  }
  for (const layer of ["heat", "mask"]) find(layer).addEventListener("change", () => { touched = true; switchLayers(); soon(); });
  find("reset").addEventListener("click", () => { reset(); soon(); });
  reset();
  switchLayers();
  section.querySelectorAll(".try, .words").forEach((element) => { element.hidden = false; });

  // The pictures are prepared one by one, so that the page stays quick while it opens.
  function prepareNext() {
    const next = data.pictures.find((picture) => !picture.levels);
    if (next) { prepare(next); setTimeout(prepareNext); } else update();
  }
  setTimeout(prepareNext);
})();
