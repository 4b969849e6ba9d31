// Try it in the page: threshold and percentile move box, IoU and mask of every figure of the galleries. All of it was
// computed in Python (wsolkit.report.method_page.slider_table); this script looks it up and shows it.
(() => {
  "use strict";
  const section = document.querySelector("section.galleries");
  const find = (id) => document.getElementById("gallery-" + id);
  if (!section || !find("data")) return;
  const data = JSON.parse(find("data").textContent);
  const width = data.thresholds.length; // pairs lie percentile after percentile
  const sliders = { threshold: find("threshold"), percentile: find("percentile") };

  const figures = [...section.querySelectorAll("figure")].map((figure) => {
    const part = (name) => figure.querySelector("." + name);
    return {
      number: figure.dataset.image, stack: part("stack"), rectangles: figure.querySelectorAll("rect.predicted"),
      mark: part("mark"), iou: part("iou"), blank: part("blank"),
    };
  });

  function show(item, [x, y, w, h, iou, hit, covers, empty]) {
    for (const rectangle of item.rectangles) {
      for (const [name, value] of Object.entries({ x, y, width: w, height: h })) rectangle.setAttribute(name, value);
      rectangle.setAttribute("visibility", w ? "visible" : "hidden");
    }
    item.iou.textContent = iou;
    item.blank.hidden = !empty;
    item.mark.textContent = hit ? "✓" : "✗";
    item.mark.className = hit ? "mark hit" : "mark miss";
    item.mark.setAttribute("aria-label", hit ? "hit" : "miss");
    const words = w ? `the predicted box ${covers}.` : "and there is no predicted box.";
    item.stack.setAttribute("aria-label", `${item.stack.dataset.alt}, ${words}`);
  }

  function update() {
    const stop = Number(sliders.percentile.value) * width + Number(sliders.threshold.value);
    const states = data.images.map(({ at, states }) => states[at[stop]]);
    for (const item of figures) show(item, states[item.number]);
    states.forEach((state, number) => find("mask-" + number).querySelector("feFuncA").setAttribute("intercept", 200 * state[8]));
    section.classList.toggle("moved", stop !== data.start);
    for (const [name, slider] of Object.entries(sliders)) {
      const value = data[name + "s"][slider.value], text = name === "percentile" && value === 100 ? "100 (max)" : String(value);
      find(name + "-value").textContent = text;
      slider.setAttribute("aria-valuetext", text);
    }
    find("sum").textContent = data.sums[stop];
  }

  let speaking = 0;
  function moved() {
    update();
    clearTimeout(speaking); // a screen reader hears the outcome, not every step
    speaking = setTimeout(() => { find("said").textContent = find("sum").textContent; }, 800);
  }
  function reset() {
    sliders.threshold.value = data.start % width;
    sliders.percentile.value = Math.floor(data.start / width);
  }
  function layers() {
    for (const layer of ["heat", "mask"]) section.classList.toggle("no-" + layer, !find(layer).checked);
  }

  let touched = false;
  for (const slider of Object.values(sliders)) {
    slider.addEventListener("input", () => {
      if (!touched) find("mask").checked = touched = true; // the first move shows what moves
      layers();
      moved();
    });
  }
  for (const layer of ["heat", "mask"]) find(layer).addEventListener("change", () => { touched = true; layers(); });
  find("reset").addEventListener("click", () => { reset(); moved(); });
  reset();
  update();
  layers();
  section.querySelectorAll(".try, .words").forEach((element) => { element.hidden = false; });
})();
