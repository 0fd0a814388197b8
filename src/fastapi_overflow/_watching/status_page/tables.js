"use strict";
// Whatever comes from the app (routes, lines, names of pools) is only ever set as text.
const $ = id => document.getElementById(id);

function make(parent, name, attributes = {}, text) {
  const svg = ["svg", "polyline", "line"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

// What hasn't changed isn't touched: no flicker, and a selection stays.
function say(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

function seconds(value) {
  if (value >= 120) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  return value ? `${value.toFixed(value < 10 ? 1 : 0)} s` : "–";
}

// ---- tables

const LEAK = "request has ended: a leak";

// A column: what it is called, what to say of a row, and its class: "text", "number", "wide".
class Table {
  constructor(id, caption, columns, none) {
    this.columns = columns;
    this.rows = new Map();
    this.table = make($(id), "table", { role: "table" });
    this.caption = make(this.table, "caption", {}, caption);
    const heads = make(make(this.table, "thead", { role: "rowgroup" }), "tr", { role: "row" });
    for (const [name, , kind] of columns) make(heads, "th", { scope: "col", role: "columnheader", class: kind }, name);
    this.body = make(this.table, "tbody", { role: "rowgroup" });
    this.none = make($(id), "p", { class: "none" }, none);
    this.show([]);
  }

  // Takes pairs of a key, the same for a row at each look, and the row.
  show(pairs) {
    this.table.hidden = !pairs.length;
    this.none.hidden = !!pairs.length;
    const keys = new Set(pairs.map(([key]) => key));
    for (const [key, cells] of this.rows) {
      if (keys.has(key)) continue;
      cells[0].parentNode.remove();
      this.rows.delete(key);
    }
    pairs.forEach(([key, row], place) => {
      if (!this.rows.has(key)) this.rows.set(key, this.add());
      const cells = this.rows.get(key);
      const there = this.body.children[place];
      if (there !== cells[0].parentNode) this.body.insertBefore(cells[0].parentNode, there || null);
      this.columns.forEach(([, read, kind], column) => fill(cells[column], kind, read(row)));
    });
  }

  // Roles: as cards on a phone the elements are no table to a screen reader any more.
  add() {
    const row = make(this.body, "tr", { role: "row" });
    return this.columns.map(([name, , kind], column) => column
      ? make(row, "td", { role: "cell", class: kind, "data-label": name })
      : make(row, "th", { role: "rowheader", scope: "row" }));
  }
}

function fill(cell, kind, value) {
  if (kind === "wide") return fillBar(cell, value);
  say(cell, value);
  cell.classList.toggle("zero", value === 0 || value === "–");
  cell.classList.toggle("alarm", value === LEAK);
}

// How much of something is taken, and how much of that idle. The numbers are in the cells beside.
function fillBar(cell, [used, idle, capacity]) {
  const bar = cell.firstChild || make(cell, "div", { class: "bar", "aria-hidden": "true" });
  if (!bar.firstChild) { make(bar, "i"); make(bar, "i"); }
  const whole = Math.max(capacity || 0, used, 1);
  bar.firstChild.style.width = `${(used - idle) / whole * 100}%`;
  bar.lastChild.style.width = `${idle / whole * 100}%`;
}
