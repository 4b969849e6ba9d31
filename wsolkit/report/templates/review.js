// Decisions on boxes: accept, reject, draw again; kept in this browser, and downloaded as a file that
// `wsolkit annotate --apply` reads. Boxes are x0, y0, x1, y1 in pixels of the image, inclusive corners.
(() => {
  "use strict";
  const list = document.getElementById("images"), find = (id) => document.getElementById(id);
  const cards = [...list.querySelectorAll("article")];
  const key = `wsolkit review ${list.dataset.run} ${list.dataset.page}`;
  const words = { accepted: "accepted", rejected: "rejected", drawn: "drawn again" };
  const past = []; // [path, decision before], for undo
  let decisions = Object.create(null), kept = true, drawing = null; // drawing: {card, box, from}

  try {
    decisions = Object.assign(decisions, JSON.parse(localStorage.getItem(key)) || {});
  } catch { kept = false; } // a browser that keeps nothing, or what it kept is damaged

  const say = (text) => { find("said").textContent = text; };
  const nameOf = (card) => card.dataset.path;
  const sides = (card) => [Number(card.dataset.width), Number(card.dataset.height)];

  function boxesOf(card) {
    const decision = decisions[nameOf(card)];
    return decision && decision.boxes ? decision.boxes : JSON.parse(card.dataset.boxes);
  }

  function paint(card, boxes) {
    card.querySelector("svg").replaceChildren(...boxes.flatMap(([x0, y0, x1, y1]) => ["halo", ""].map((name) => {
      const rectangle = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const values = { class: name, x: x0, y: y0, width: x1 + 1 - x0, height: y1 + 1 - y0 };
      for (const [attribute, value] of Object.entries(values)) rectangle.setAttribute(attribute, value);
      return rectangle;
    })));
  }

  function update(card) {
    const decision = decisions[nameOf(card)], state = decision ? decision.decision : "";
    card.dataset.state = state;
    card.querySelector(".state span").textContent = state ? `, ${words[state]}` : "";
    for (const button of card.querySelectorAll("[data-decision]")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === state));
    }
    paint(card, boxesOf(card));
  }

  function count() {
    const states = cards.map((card) => card.dataset.state).filter(Boolean);
    const parts = Object.keys(words).map((state) => [states.filter((own) => own === state).length, words[state]]);
    const told = parts.filter(([number]) => number).map(([number, text]) => `${number} ${text}`).join(", ");
    find("progress").value = states.length;
    const text = `${states.length} of ${cards.length} decided${told && ": "}${told}`;
    find("counts").textContent = kept ? text : `${text}. This browser keeps nothing: download before you close the page`;
    find("undo").disabled = !past.length;
    return text;
  }

  function keep() {
    try {
      localStorage.setItem(key, JSON.stringify(decisions));
    } catch { kept = false; }
  }

  function set(card, decision) {
    if (decision) decisions[nameOf(card)] = decision;
    else delete decisions[nameOf(card)];
    update(card);
    keep();
    return count();
  }

  function go(card) {
    if (!card) return;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  function undecided(after) {
    const start = cards.indexOf(after) + 1;
    return [...cards.slice(start), ...cards.slice(0, start)].find((card) => !card.dataset.state);
  }

  function decide(card, decision) {
    past.push([card, decisions[nameOf(card)]]);
    const text = set(card, decision);
    const next = undecided(card);
    say(`${nameOf(card)} ${words[decision.decision]}. ${next ? text : `All decided. ${text}`}`);
    go(next || card);
  }

  function undo() {
    const last = past.pop();
    if (!last) return say("Nothing to undo");
    leave();
    say(`Undone: ${nameOf(last[0])}. ${set(...last)}`);
    go(last[0]);
  }

  // ---------------------------------------------------------------------------------------------------- drawing

  function draw(card) {
    leave();
    const stack = card.querySelector(".stack");
    drawing = { card, box: [...boxesOf(card)[0]], from: null };
    card.classList.add("now");
    card.querySelector(".buttons.script").hidden = true;
    card.querySelector(".buttons.drawing").hidden = false;
    stack.tabIndex = 0;
    stack.setAttribute("role", "application"); // arrow keys reach the page through a screen reader
    stack.setAttribute("aria-label", `Box of ${nameOf(card)}: arrows move it, Shift and arrows move its lower right corner, `
      + "Enter keeps it, Escape leaves it as it was");
    stack.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
    move(drawing.box);
  }

  function move(box) {
    drawing.box = box;
    paint(drawing.card, [box]);
    const [x0, y0, x1, y1] = box;
    say(`Box from ${x0}, ${y0} to ${x1}, ${y1}`);
  }

  function leave(keepIt = false) {
    if (!drawing) return;
    const { card, box } = drawing, stack = card.querySelector(".stack");
    drawing = null;
    card.classList.remove("now");
    card.querySelector(".buttons.script").hidden = false;
    card.querySelector(".buttons.drawing").hidden = true;
    for (const name of ["tabindex", "role", "aria-label"]) stack.removeAttribute(name);
    if (keepIt) return decide(card, { decision: "drawn", boxes: [box] });
    update(card);
    go(card);
  }

  function point(event) { // the pixel of the image below the pointer
    const frame = drawing.card.querySelector("svg").getBoundingClientRect(), [width, height] = sides(drawing.card);
    const place = (share, side) => Math.min(side - 1, Math.max(0, Math.floor(share * side)));
    return [place((event.clientX - frame.left) / frame.width, width), place((event.clientY - frame.top) / frame.height, height)];
  }

  function stretch([x, y]) {
    const [a, b] = drawing.from;
    move([Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)]);
  }

  function step(event) { // arrow keys: the whole box, or its lower right corner
    const [width, height] = sides(drawing.card), [x0, y0, x1, y1] = drawing.box;
    const far = event.altKey ? 1 : Math.max(1, Math.round(Math.max(width, height) / 50));
    const ways = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    const [dx, dy] = ways[event.key], clamp = (value, low, high) => Math.min(high, Math.max(low, value));
    if (event.shiftKey) return move([x0, y0, clamp(x1 + dx, x0, width - 1), clamp(y1 + dy, y0, height - 1)]);
    const x = clamp(dx, -x0, width - 1 - x1), y = clamp(dy, -y0, height - 1 - y1);
    move([x0 + x, y0 + y, x1 + x, y1 + y]);
  }

  list.addEventListener("pointerdown", (event) => {
    const stack = event.target.closest(".stack");
    if (!drawing || !stack || !drawing.card.contains(stack) || event.button) return;
    event.preventDefault();
    stack.setPointerCapture(event.pointerId);
    drawing.from = point(event);
    stretch(drawing.from);
  });
  list.addEventListener("pointermove", (event) => { if (drawing && drawing.from) stretch(point(event)); });
  list.addEventListener("pointerup", (event) => {
    if (!drawing || !drawing.from) return;
    stretch(point(event));
    drawing.from = null; // the box stays open for corrections until it is kept
  });
  list.addEventListener("pointercancel", () => { if (drawing) drawing.from = null; });
  // Chromium takes a quick drag for a fling even where nothing may scroll, and the tap on "Keep this box" for its end
  const still = (event) => { if (drawing && drawing.card.contains(event.target)) event.preventDefault(); };
  for (const card of cards) card.querySelector(".stack").addEventListener("touchstart", still, { passive: false });

  // ------------------------------------------------------------------------------------------------ keys, buttons

  list.addEventListener("keydown", (event) => {
    const card = event.target.closest("article"), pressed = event.target.closest("button");
    if (!card || event.ctrlKey || event.metaKey) return;
    const arrow = /^Arrow/.test(event.key);
    if (drawing && drawing.card === card) {
      if (arrow) step(event);
      else if (event.key === "Escape") leave();
      else if (event.key === "Enter" && !pressed) leave(true);
      else return;
      return event.preventDefault();
    }
    if (event.altKey || event.shiftKey) return;
    const place = cards.indexOf(card);
    const acts = {
      a: () => decide(card, { decision: "accepted" }), r: () => decide(card, { decision: "rejected" }),
      d: () => draw(card), u: undo,
      ArrowRight: () => go(cards[place + 1]), ArrowLeft: () => go(cards[place - 1]),
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    acts[event.key]();
  });
  list.addEventListener("click", (event) => {
    const card = event.target.closest("article"), button = event.target.closest("button");
    if (!card) return;
    if (!button) { if (!drawing) card.focus({ preventScroll: true }); return; }
    if (button.dataset.draw) return leave(button.dataset.draw === "keep");
    if (button.dataset.decision === "drawn") return draw(card);
    decide(card, { decision: button.dataset.decision });
  });
  find("start").addEventListener("click", () => {
    const next = undecided(document.activeElement);
    if (next) go(next);
    else say("All decided");
  });
  find("undo").addEventListener("click", undo);
  find("download").addEventListener("click", () => {
    const content = { written_by: "wsolkit review", run: list.dataset.run, page: list.dataset.page, decisions };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    link.download = `${list.dataset.page}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`${Object.keys(decisions).length} decisions downloaded as ${link.download}`);
  });

  for (const path of Object.keys(decisions)) { // what is damaged in the browser's store is forgotten
    const own = decisions[path];
    if (!own || !Object.hasOwn(words, own.decision) || (own.boxes && !Array.isArray(own.boxes[0]))) delete decisions[path];
  }
  cards.forEach(update);
  count();
  document.querySelectorAll(".script").forEach((element) => { element.hidden = false; });
})();
