"use strict";
// Filters and sorting of the index page. Without this script the page shows everything, in the order in which it is written.
(() => {
  const KINDS = { dataset: "Data", backbone: "Network", method: "Method" };
  const chosen = { dataset: new Set(), backbone: new Set(), method: new Set() }; // empty: everything
  let sorted = null; // [id of the table, column, "ascending" or "descending"]
  let place = ""; // id of the heading that a link of the page led to
  const tables = [...document.querySelectorAll("table.sortable")];
  const tagged = [...document.querySelectorAll("[data-dataset], [data-backbone], [data-method]")];

  // ---- what is shown
  const wanted = (element) =>
    Object.keys(KINDS).every(
      (kind) => !(kind in element.dataset) || !chosen[kind].size || chosen[kind].has(element.dataset[kind]),
    );

  function show() {
    for (const element of tagged) element.toggleAttribute("hidden", !wanted(element)); // SVG knows no property hidden
    for (const section of document.querySelectorAll("section.dataset"))
      section.hidden ||= !section.querySelector("table.lines tbody tr[data-method]:not([hidden])");
    for (const link of document.querySelectorAll("nav a[href^='#']")) {
      const target = document.getElementById(link.hash.slice(1));
      link.parentElement.hidden = Boolean(target?.closest("[hidden]"));
    }
    for (const button of document.querySelectorAll(".choice button[data-kind]"))
      button.setAttribute("aria-pressed", chosen[button.dataset.kind].has(button.value));
    const lines = [...document.querySelectorAll("table.lines tbody tr[data-method]")];
    const count = lines.filter((line) => !line.closest("[hidden]")).length;
    const note = document.getElementById("choice-count");
    if (note) note.textContent = `${count} of ${lines.length} results shown`;
  }

  // ---- the address: #backbone=vgg16,resnet18&sort=table.column.direction
  const some = (set) => [...set].map(encodeURIComponent).join(",");

  function fragment() {
    const parts = Object.keys(KINDS).filter((kind) => chosen[kind].size).map((kind) => `${kind}=${some(chosen[kind])}`);
    if (sorted) parts.push(`sort=${sorted.join(".")}`);
    if (place && parts.length) parts.push(`at=${place}`);
    return parts.join("&") || place;
  }

  function read() {
    const text = location.hash.slice(1);
    if (text && !text.includes("=")) { // a link inside the page: the choice stays, and the address says both
      place = text;
      keep();
      return;
    }
    const values = Object.fromEntries(text.split("&").map((part) => part.split("=")));
    for (const kind of Object.keys(KINDS)) {
      const known = new Set(tagged.map((element) => element.dataset[kind]));
      chosen[kind] = new Set((values[kind] || "").split(",").map(decoded).filter((name) => name && known.has(name)));
    }
    const [id, column, direction] = (values.sort || "").split(".");
    const head = document.getElementById(id)?.tHead?.rows[0].cells[column];
    if (head?.dataset.sort && ["ascending", "descending"].includes(direction)) sort(head, direction);
    else if (sorted) unsort();
    place = values.at || "";
    show();
    document.getElementById(place)?.scrollIntoView();
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return ""; // a % that is none: as if it were not there
    }
  }

  function keep() {
    const text = fragment();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  // ---- sorting
  const original = new Map(tables.map((table) => [table, [...table.tBodies[0].rows]]));

  function unsort() {
    for (const table of tables) {
      for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
      table.tBodies[0].append(...original.get(table));
    }
    sorted = null;
  }

  function sort(head, direction) {
    const table = head.closest("table");
    const column = head.cellIndex;
    const numeric = head.dataset.sort === "number";
    const value = (row) => {
      const cell = row.cells[column];
      if (!numeric) return cell.textContent.trim();
      return cell?.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    const sign = direction === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null); // without a number: always last
      return sign * (numeric ? a - b : a.localeCompare(b));
    };
    if (sorted && sorted[0] !== table.id) unsort();
    const rows = original.get(table).map((row) => [value(row), row]);
    table.tBodies[0].append(...rows.sort((a, b) => compare(a[0], b[0])).map((pair) => pair[1]));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    sorted = [table.id, column, direction];
  }

  for (const table of tables)
    for (const head of table.tHead.rows[0].cells) {
      if (!head.dataset.sort) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => {
        const first = head.dataset.sort === "text" || head.dataset.first === "asc" ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        sort(head, head.getAttribute("aria-sort") === first ? other : first);
        keep();
      });
      head.append(button);
    }

  // ---- the controls
  function controls() {
    const sections = [...document.querySelectorAll("section.dataset")];
    const headings = new Map(sections.map((section) => [section.dataset.dataset, section.querySelector("h2").textContent]));
    const box = document.createElement("div");
    box.className = "choice";
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Choose what this page shows");
    for (const [kind, label] of Object.entries(KINDS)) {
      const names = [...new Set(tagged.map((element) => element.dataset[kind]).filter((name) => name !== undefined))];
      if (names.length < 2) continue;
      const field = document.createElement("fieldset");
      field.append(Object.assign(document.createElement("legend"), { textContent: label }));
      for (const name of names) {
        const title = kind === "dataset" ? headings.get(name) : name;
        const button = Object.assign(document.createElement("button"), { type: "button", value: name, textContent: title });
        button.dataset.kind = kind;
        button.addEventListener("click", () => {
          if (!chosen[kind].delete(name)) chosen[kind].add(name);
          show();
          keep();
        });
        field.append(button);
      }
      if (names.length <= 12) box.append(field);
      else { // many names are folded
        const details = document.createElement("details");
        details.append(Object.assign(document.createElement("summary"), { textContent: `${label}: ${names.length}` }), field);
        box.append(details);
      }
    }
    if (!box.children.length) return;
    const note = document.createElement("p");
    const count = Object.assign(document.createElement("span"), { id: "choice-count" });
    count.setAttribute("role", "status");
    const all = Object.assign(document.createElement("button"), { type: "button", className: "all", textContent: "Show everything" });
    all.addEventListener("click", () => {
      for (const kind of Object.keys(KINDS)) chosen[kind].clear();
      show();
      keep();
    });
    note.append(count, ". Press names to see only these; the page's address keeps the choice. ", all);
    box.append(note);
    document.querySelector("main").prepend(box);
  }

  controls();
  read();
  show();
  window.addEventListener("hashchange", read);
})();
