// Everything that comes from results goes into the page as text: there is no innerHTML here, and the policy forbids it.

const STATUS = {
  p: { name: "pass", word: "pass", glyph: "✓", bad: 0 },
  k: { name: "known", word: "known upstream bug", glyph: "◆", bad: 1 },
  u: { name: "unevaluated", word: "not evaluated", glyph: "–", bad: 2 },
  f: { name: "fail", word: "fail", glyph: "✗", bad: 5 },
  e: { name: "error", word: "not decided", glyph: "?", bad: 4 },
  m: { name: "missing", word: "missing", glyph: "∅", bad: 3 },
};
const FORWARD = 0;
const ALL = -1;
/** Columns up to which a cell has room for its number. */
const MOST_WIDE = 20;

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== ""));
  return element;
}

/* ---------- What the results say ---------- */

const data = JSON.parse(byId("data").textContent);
const total = data.status.length;
const entryOf = new Uint32Array(total);
for (let stretch = 0, check = 0; stretch < data.stretches.length; stretch += 2) {
  for (let step = 0; step < data.stretches[stretch + 1]; step += 1, check += 1) entryOf[check] = data.stretches[stretch] + step;
}
/** The place of a check in the columns of numbers; of a large run only some checks have one. */
const numbered = data.numbered.length ? new Int32Array(total).fill(-1) : undefined;
for (const [place, check] of data.numbered.entries()) numbered[check] = place;
const suiteOf = new Uint32Array(total);
const firstOf = [];
let next = 0;
for (const [suite, { checks }] of data.suites.entries()) {
  firstOf.push(next);
  suiteOf.fill(suite, next, next + checks);
  next += checks;
}

const numeric = (value) => (value === null || value === undefined ? NaN : Number(value));
const absent = (value) => value === null || value === undefined;
const statusOf = (check) => STATUS[data.status[check]];
const titleOf = (check) => data.entries[entryOf[check]][0];
const componentOf = (check) => data.entries[entryOf[check]][1];
const cells = data.entries.map((entry) => entry.slice(2));
const cellOf = (check) => cells[entryOf[check]];
const hasNumbers = (check) => !numbered || numbered[check] >= 0;
/** A number of a check, undefined where the page does not have it. */
const numberOf = (column, check) => data[column][numbered ? numbered[check] : check];
const textOf = (column, check) => data.texts[numberOf(column, check)] ?? "";
const labelOf = (check) => data.suites[suiteOf[check]].label;
const shareOf = (check) => (absent(numberOf("share", check)) ? -1 : numeric(numberOf("share", check)));
const shortOf = (check) => numberOf("short", check) ?? "";
const hasFloor = (check) => !absent(numberOf("floor", check));
const look = (check) => `cell ${statusOf(check).name} l${data.level[check]}`;

/** Whether `one` is worse than `other`. */
function worse(one, other) {
  const difference = statusOf(one).bad - statusOf(other).bad;
  if (difference) return difference > 0;
  // Without its share, a check still says how deep its colour is.
  return hasNumbers(one) && hasNumbers(other) ? shareOf(one) > shareOf(other) : depth(one) > depth(other);
}

const depth = (check) => Number(data.level[check]) + (hasNumbers(check) ? 0.5 : 0);

const worst = (checks) => checks.reduce((found, check) => (worse(check, found) ? check : found));

/** `4e-6 × limit`, `0.61 × floor`, `equal`; empty where nothing was measured. */
function measure(check) {
  const short = shortOf(check);
  if (short === "=") return "equal to the bit";
  return /[0-9∞]/.test(short) ? `${short} × ${hasFloor(check) ? "floor" : "limit"}` : "";
}

function readable(value) {
  if (absent(value)) return "";
  const number = Number(value);
  if (!Number.isFinite(number)) return String(number);
  if (number === 0 || Number.isInteger(number)) return number.toLocaleString("en");
  const size = Math.abs(number);
  if (size >= 1e-4 && size < 1e6) return String(Number(number.toPrecision(4)));
  return number.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
}

const sentence = (check) =>
  [`${titleOf(check)} in ${labelOf(check)}: ${statusOf(check).word}`, measure(check), absent(numberOf("max", check)) ? "" : `max diff ${readable(numberOf("max", check))}`]
    .filter(Boolean)
    .join(", ");

/* ---------- Links to a check: #suite/check ---------- */

const anchor = (check) => `#${encodeURIComponent(data.suites[suiteOf[check]].name)}/${encodeURIComponent(titleOf(check))}`;

/** The check of a link; of several with one title the worst. */
function linked(hash) {
  const [suite, title] = hash.replace(/^#/, "").split("/", 2).map(decoded);
  if (title === undefined) return undefined;
  const found = [];
  for (let check = 0; check < total; check += 1) {
    if (titleOf(check) === title && data.suites[suiteOf[check]].name === suite) found.push(check);
  }
  return found.length ? worst(found) : undefined;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray % sign
  }
}

/* ---------- Pieces of the page ---------- */

function glyph(status) {
  return make("span", { class: `glyph ${status.name}`, role: "img", "aria-label": status.word }, status.glyph);
}

/** Text in which https addresses are links. No other kind of address is ever made one. */
function withLinks(text) {
  const parts = text.split(/(https:\/\/[^\s<>"'`()[\]{}]+[^\s<>"'`()[\]{}.,;:!?])/);
  return parts.map((part, index) => (index % 2 ? make("a", { href: part, rel: "noopener noreferrer" }, part) : part));
}

function withCopy(command) {
  const button = make("button", { type: "button", class: "copy", "aria-label": "Copy the command" }, "Copy");
  button.addEventListener("click", async () => {
    const copied = await copy(command.querySelector("code"));
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  command.append(button);
  return command;
}

/** Copies an element's text; where the browser keeps the clipboard from files, selects it. */
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

function option(value, text, selected) {
  return make("option", { value, selected }, text);
}

function segment(type, name, value, text, checked) {
  return make("label", {}, make("input", { type, name, value, checked }), make("span", {}, text));
}

/**
 * One tab stop in a grid, arrow keys within. `open` is called with the cell that is clicked or entered, `see` with the one
 * that has the focus or the pointer.
 */
function roving(table, open, see = () => {}) {
  const cells = () => [...table.querySelectorAll("td.cell")];
  const move = (cell) => {
    for (const other of table.querySelectorAll('td[tabindex="0"]')) other.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  };
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td.cell");
    if (!cell) return;
    if (event.key === "Enter" || event.key === " ") open(cell);
    else {
      const next = neighbour(cells(), cell, event);
      if (next === undefined) return;
      if (next) move(next);
    }
    event.preventDefault();
  });
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td.cell");
    if (!cell) return;
    move(cell);
    open(cell);
  });
  for (const kind of ["focusin", "pointermove"]) {
    table.addEventListener(kind, (event) => {
      // A page that scrolls under a pointer at rest moves it, too, as far as events tell.
      if (kind === "pointermove" && !event.movementX && !event.movementY) return;
      const cell = event.target.closest("td.cell");
      if (cell) see(cell);
    });
  }
}

/** The cell that a key leads to, null at the edge; undefined for a key that leads nowhere. */
function neighbour(cells, cell, { key, ctrlKey }) {
  const row = (one) => one.parentElement.rowIndex;
  const inRow = cells.filter((one) => row(one) === row(cell));
  const at = inRow.indexOf(cell);
  const inColumn = cells.filter((one) => one.cellIndex === cell.cellIndex);
  const down = inColumn.indexOf(cell);
  const found = {
    ArrowRight: () => inRow[at + 1],
    ArrowLeft: () => inRow[at - 1],
    ArrowDown: () => inColumn[down + 1],
    ArrowUp: () => inColumn[down - 1],
    Home: () => (ctrlKey ? cells : inRow)[0],
    End: () => (ctrlKey ? cells : inRow).at(-1),
  }[key];
  return found ? (found() ?? null) : undefined;
}

/* ---------- Colours ---------- */

function startTheme() {
  const remembered = remember("plumbline-theme");
  const box = byId("theme");
  box.hidden = false;
  const apply = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  apply(remembered);
  for (const input of box.querySelectorAll("input")) {
    input.checked = input.value === remembered;
    input.addEventListener("change", () => {
      apply(input.value);
      remember("plumbline-theme", input.value);
    });
  }
}

/** What the browser keeps for this page, where it does for files. */
function remember(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key) ?? "";
  } catch {
    return value ?? "";
  }
}

/* ---------- Layouts × components ---------- */

function startLayouts() {
  const table = byId("layouts");
  table.setAttribute("role", "grid");
  const cells = [...table.querySelectorAll("td.cell")];
  for (const cell of cells) cell.tabIndex = -1;
  if (cells.length) cells[0].tabIndex = 0;
  roving(table, (cell) => {
    const [suite, component] = cell.dataset.at.split("/").map(Number);
    const found = checksOf(suite).filter((check) => componentOf(check) === component);
    const placed = found.filter((check) => cellOf(check).length);
    if (placed.length) {
      map.show(suite, cellOf(worst(placed))[0]);
      map.reveal(worst(placed));
    } else list.only(suite, component);
  }, (cell) => {
    byId("layout-told").textContent = `${data.suites[cell.dataset.at.split("/")[0]].label}, ${cell.title}`;
  });
}

function checksOf(suite) {
  if (suite === ALL) return [...suiteOf.keys()];
  return Array.from({ length: data.suites[suite].checks }, (_, index) => firstOf[suite] + index);
}

/* ---------- Layers × probes ---------- */

const map = {
  suite: ALL,
  view: FORWARD,

  start() {
    if (!data.views.length) return;
    byId("map").hidden = false;
    const layouts = byId("map-layout");
    if (data.suites.filter(({ apart }) => !apart).length > 1) layouts.append(option(ALL, "All, the worst of each"));
    for (const [suite, { label, apart }] of data.suites.entries()) if (!apart) layouts.append(option(suite, label));
    layouts.addEventListener("change", () => this.show(Number(layouts.value), this.view));
    byId("map-views").append(...data.views.map((name, view) => segment("radio", "view", view, name, false)));
    byId("map-views").addEventListener("change", (event) => this.show(this.suite, Number(event.target.value)));
    const suite = this.firstSuite();
    this.show(suite, this.firstView(suite));
    roving(byId("grid"), (cell) => sheet.open(this.at(cell)), (cell) => this.tell(cell));
  },

  /** The first layout in which the worst happened; all of them where nothing is wrong. */
  firstSuite() {
    const bad = data.suites.map(({ apart }, suite) => (apart ? -1 : Math.max(0, ...checksOf(suite).map((check) => statusOf(check).bad))));
    const most = Math.max(...bad);
    return most > STATUS.k.bad || bad.filter((one) => one >= 0).length === 1 ? bad.indexOf(most) : ALL;
  },

  /** The first map in which something is wrong. */
  firstView(suite) {
    const wrong = checksOf(suite).filter((check) => statusOf(check).bad > 0 && cellOf(check).length);
    return Math.min(...wrong.map((check) => cellOf(check)[0]), data.views.length) % data.views.length;
  },

  show(suite, view) {
    Object.assign(this, { suite, view });
    byId("map-layout").value = suite;
    for (const input of byId("map-views").querySelectorAll("input")) input.checked = Number(input.value) === view;
    this.cells = new Map();
    for (const check of checksOf(suite)) {
      const [of, row, column] = cellOf(check);
      if (of !== view) continue;
      const key = `${row}/${column}`;
      const other = this.cells.get(key);
      if (other === undefined || worse(check, other)) this.cells.set(key, check);
    }
    this.draw();
  },

  draw() {
    const keys = [...this.cells.keys()].map((key) => key.split("/").map(Number));
    const rows = [...new Set(keys.map(([row]) => row))].sort((a, b) => a - b);
    const columns = [...new Set(keys.map(([, column]) => column))].sort((a, b) => a - b);
    const compact = columns.length > MOST_WIDE;
    byId("grid").classList.toggle("compact", compact);
    const name = (column) => (/^\d/.test(data.columns[column]) && !compact ? `Layer ${data.columns[column]}` : data.columns[column]);
    const heads = columns.map((column) => make("th", { scope: "col" }, make("span", {}, name(column))));
    const body = rows.map((row) => this.row(row, columns));
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, data.views[this.view]), ...heads));
    byId("grid").replaceChildren(head, make("tbody", {}, ...body));
    const first = byId("grid").querySelector("td.cell");
    if (first) first.tabIndex = 0;
    else byId("grid").replaceChildren(make("tbody", {}, make("tr", {}, make("td", {}, "Nothing of this kind was compared."))));
  },

  row(row, columns) {
    const cells = columns.map((column) => {
      const key = `${row}/${column}`;
      return this.cells.has(key) ? this.cell(key, this.cells.get(key)) : make("td", { class: "none" });
    });
    return make("tr", {}, make("th", { scope: "row" }, data.rows[row]), ...cells);
  },

  cell(key, check) {
    const status = statusOf(check);
    const mark = status.bad ? make("i", { "aria-hidden": "true" }, status.glyph) : "";
    const told = { class: look(check), "data-key": key, tabindex: -1, "aria-label": sentence(check) };
    return make("td", told, mark, make("span", {}, shortOf(check)));
  },

  at(cell) {
    return this.cells.get(cell.dataset.key);
  },

  tell(cell) {
    const check = this.at(cell);
    const status = statusOf(check);
    byId("readout").replaceChildren(
      make("p", {}, make("span", { class: `badge ${status.name}` }, `${status.glyph} ${status.word}`), ` in ${labelOf(check)}`),
      make("h3", {}, make("bdi", {}, titleOf(check))),
      ...block(measure(check), (text) => make("p", { class: "measure" }, text)),
      numbers(check, {}),
    );
  },

  /** Puts the focus on a check's cell. */
  reveal(check) {
    const [, row, column] = cellOf(check);
    const cell = byId("grid").querySelector(`[data-key="${row}/${column}"]`);
    byId("map").scrollIntoView({ block: "start" });
    cell?.focus({ preventScroll: true });
    cell?.scrollIntoView({ block: "nearest", inline: "nearest" });
  },
};

/* ---------- All checks ---------- */

const COLUMNS = [
  { key: "status", head: "Status", width: "96px" },
  { key: "layout", head: "Layout", width: "13%", wide: true },
  { key: "component", head: "Component", width: "124px", wide: true },
  { key: "title", head: "Check", width: "" },
  { key: "share", head: "Ratio", width: "80px", number: true },
  { key: "max", head: "Max diff", width: "88px", number: true, wide: true },
  { key: "avg", head: "Avg diff", width: "88px", number: true, wide: true },
  { key: "rel", head: "Relative", width: "88px", number: true, wide: true },
  { key: "limit", head: "Limit", width: "76px", number: true, wide: true },
  { key: "ranks", head: "Ranks", width: "74px", wide: true },
];
const SPARE = 12;
/** Pixels that a list may be high. Firefox has 17 million, Chromium 33 million, and a row of a narrow screen takes 46. */
const HIGHEST = 12_000_000;

/** All checks by their entries, and by their layouts within an entry. */
function inTheFlow() {
  const starts = new Uint32Array(data.entries.length + 1);
  for (const entry of entryOf) starts[entry + 1] += 1;
  for (let entry = 0; entry < data.entries.length; entry += 1) starts[entry + 1] += starts[entry];
  const found = new Uint32Array(total);
  for (let check = 0; check < total; check += 1) found[starts[entryOf[check]]++] = check;
  return found;
}

const list = {
  order: [],
  active: 0,
  /** Checks are numbered in the order of the flow of data. */
  sorted: { key: "title", down: false },

  start() {
    byId("checks").hidden = false;
    this.table = byId("list");
    this.body = this.table.tBodies[0];
    this.box = byId("viewport");
    this.names = data.entries.map(([title, component]) => `${title} ${data.components[component]}`.toLowerCase());
    this.flow = inTheFlow();
    this.heads();
    this.filters();
    this.box.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-check]");
      if (row) this.open(row);
    });
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.update();
  },

  heads() {
    const wide = (column) => `${column.number ? "number " : ""}${column.wide ? "wide" : ""}`.trim() || undefined;
    this.table.querySelector("colgroup").append(
      ...COLUMNS.map((column) => {
        const element = make("col", { class: wide(column) });
        element.style.width = column.width;
        return element;
      }),
    );
    const heads = COLUMNS.map((column) => {
      const button = make("button", { type: "button" }, column.head);
      button.addEventListener("click", () => this.sort(column));
      return make("th", { scope: "col", class: wide(column), "data-key": column.key }, button);
    });
    this.table.tHead.append(make("tr", { "aria-rowindex": 1 }, ...heads));
  },

  filters() {
    byId("of-layout").append(option(ALL, "All"), ...data.suites.map(({ label }, suite) => option(suite, label)));
    byId("of-component").append(option(ALL, "All"), ...data.components.map((name, index) => option(index, name)));
    const counts = {};
    for (const status of data.status) counts[status] = (counts[status] ?? 0) + 1;
    const kinds = Object.entries(STATUS).filter(([key]) => counts[key]);
    const red = kinds.some(([, { bad }]) => bad > STATUS.k.bad);
    byId("of-status").append(
      ...kinds.map(([key, { glyph, name, bad }]) =>
        segment("checkbox", "status", key, `${glyph} ${name} ${counts[key].toLocaleString("en")}`, !red || bad > STATUS.k.bad),
      ),
    );
    for (const id of ["words", "of-layout", "of-component", "of-status"]) byId(id).addEventListener("input", () => this.update());
  },

  /** Shows one component of one layout. */
  only(suite, component) {
    byId("words").value = "";
    byId("of-layout").value = suite;
    byId("of-component").value = component;
    for (const input of byId("of-status").querySelectorAll("input")) input.checked = true;
    this.update();
    byId("checks").scrollIntoView({ block: "start" });
    this.body.querySelector("button")?.focus({ preventScroll: true });
  },

  sort({ key, number }) {
    const down = this.sorted.key === key ? !this.sorted.down : Boolean(number) || key === "status";
    this.sorted = { key, down };
    this.update();
  },

  update() {
    const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [suite, component] = [Number(byId("of-layout").value), Number(byId("of-component").value)];
    const statuses = new Set([...byId("of-status").querySelectorAll("input:checked")].map(({ value }) => value));
    const labels = data.suites.map(({ label }) => label.toLowerCase());
    const found = [];
    for (const check of this.flow) {
      if (suite !== ALL && suiteOf[check] !== suite) continue;
      if (component !== ALL && componentOf(check) !== component) continue;
      if (!statuses.has(data.status[check])) continue;
      if (words.length) {
        const name = `${this.names[entryOf[check]]} ${labels[suiteOf[check]]}`;
        if (!words.every((word) => name.includes(word))) continue;
      }
      found.push(check);
    }
    this.order = this.arranged(found);
    this.active = 0;
    this.box.scrollTop = 0;
    byId("shown").textContent = `${found.length.toLocaleString("en")} of ${total.toLocaleString("en")} checks`;
    this.table.setAttribute("aria-rowcount", found.length + 1);
    for (const head of this.table.tHead.querySelectorAll("th")) {
      if (head.dataset.key === this.sorted.key) head.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    this.draw();
  },

  /** Checks that are in the flow of data, in the order that is asked for; equals stay in the flow. */
  arranged(checks) {
    const { key, down } = this.sorted;
    if (key === "title" && !down) return checks;
    const value = {
      status: (check) => statusOf(check).bad,
      layout: (check) => suiteOf[check],
      component: componentOf,
      title: (check) => entryOf[check],
      share: shareOf,
      ranks: (check) => numberOf("ranks", check) ?? -1,
    }[key] ?? ((check) => (absent(numberOf(key, check)) ? -Infinity : worstNumber(numberOf(key, check))));
    const keys = new Float64Array(total);
    for (const check of checks) keys[check] = value(check);
    const sign = down ? -1 : 1;
    return checks.sort((a, b) => sign * compare(keys[a], keys[b]));
  },

  height() {
    return parseFloat(getComputedStyle(this.table).getPropertyValue("--row"));
  },

  /** By how much the list is lower than all its rows: browsers have a largest height. */
  shrunk() {
    const whole = this.order.length * this.height();
    const rest = this.table.tHead.offsetHeight - this.box.clientHeight;
    return whole > HIGHEST ? (whole + rest) / (HIGHEST + rest) : 1;
  },

  /** Only the rows in sight, and a few around them, are in the page. */
  draw() {
    const height = this.height();
    const count = this.order.length;
    const top = this.box.scrollTop;
    const from = Math.max(0, Math.min(count, Math.floor((top * this.shrunk()) / height)) - SPARE);
    const to = Math.min(count, from + Math.ceil(this.box.clientHeight / height) + 2 * SPARE);
    const focused = this.body.contains(document.activeElement);
    const rows = this.order.slice(from, to).map((check, index) => this.row(check, from + index));
    const above = from * height - top * (this.shrunk() - 1);
    const below = Math.min(count * height, HIGHEST) - above - (to - from) * height;
    this.body.replaceChildren(spacer(above), ...rows, spacer(below));
    if (!count) this.body.replaceChildren(make("tr", {}, make("td", { class: "nothing" }, "No check is like that.")));
    const stop = this.stop() ?? this.body.querySelector("button");
    if (stop) stop.tabIndex = 0;
    if (focused) this.stop()?.focus({ preventScroll: true });
  },

  stop() {
    return this.body.querySelector(`tr[data-at="${this.active}"] button`);
  },

  row(check, at) {
    const status = statusOf(check);
    const where = `${labelOf(check)}, ${data.components[componentOf(check)]}`;
    const texts = {
      status: [glyph(status), ` ${status.name}`],
      layout: [labelOf(check)],
      component: [data.components[componentOf(check)]],
      title: [make("button", { type: "button", class: "link", tabindex: -1, title: titleOf(check) }, titleOf(check)), make("span", { class: "where" }, where)],
      share: [shortOf(check)],
      ranks: [textOf("ranks", check)],
    };
    const cells = COLUMNS.map(({ key, number, wide }) => {
      const classes = `${number ? "number " : ""}${wide ? "wide" : ""}`.trim() || undefined;
      return make("td", { class: classes }, ...(texts[key] ?? [readable(numberOf(key, check))]));
    });
    return make("tr", { "data-check": check, "data-at": at, "aria-rowindex": at + 2 }, ...cells);
  },

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.body.querySelector("tr[data-check]").offsetHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.go(Math.max(0, Math.min(this.order.length - 1, this.active + steps[event.key])));
  },

  go(at) {
    this.active = at;
    const height = this.height();
    const head = this.table.tHead.offsetHeight;
    const room = this.box.clientHeight - head - height;
    const top = this.box.scrollTop * this.shrunk();
    const wanted = Math.max(Math.min(top, at * height), at * height - room);
    if (wanted !== top) this.box.scrollTop = wanted / this.shrunk();
    this.draw();
    this.stop()?.focus({ preventScroll: true });
  },

  open(row) {
    this.active = Number(row.dataset.at);
    row.querySelector("button").focus({ preventScroll: true });
    sheet.open(Number(row.dataset.check));
  },
};

const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
/** What is no number is worse than any that is one. */
const worstNumber = (value) => (Number.isNaN(Number(value)) ? Infinity : Number(value));
const spacer = (height) => {
  const cell = make("td"); // a colspan would bring back the columns that narrow screens leave out
  cell.style.height = `${height}px`;
  return make("tr", { class: "spacer", "aria-hidden": "true" }, cell);
};

/* ---------- The numbers of one check ---------- */

const sheet = {
  check: undefined,

  start() {
    this.dialog = byId("sheet");
    this.dialog.addEventListener("close", () => {
      // The event comes later: another link may have been followed by then.
      if (linked(location.hash) === this.check) history.replaceState(null, "", location.href.split("#")[0]);
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog && event.clientX < this.dialog.getBoundingClientRect().left) this.dialog.close();
    });
    addEventListener("hashchange", () => this.follow());
    this.follow();
  },

  follow() {
    const check = linked(location.hash);
    if (check === undefined) return;
    const [view] = cellOf(check);
    if (view !== undefined) map.show(suiteOf[check], view);
    this.open(check);
  },

  open(check) {
    const more = data.more[check] ?? {};
    const suite = data.suites[suiteOf[check]];
    byId("sheet-body").replaceChildren(
      make("p", { class: `badge ${statusOf(check).name}` }, `${statusOf(check).glyph} ${statusOf(check).word}`),
      make("h2", { id: "sheet-title" }, make("bdi", {}, titleOf(check))),
      make("p", { class: "quiet" }, `${suite.label}, ${data.components[componentOf(check)]}`),
      ...block(measure(check), (text) => make("p", { class: "measure" }, text)),
      ...block(more.says, (text) => make("p", { class: "says" }, make("bdi", {}, ...withLinks(text)))),
      numbers(check, more),
      ...again(more, suite),
      ...block(more.details, (text) => make("pre", {}, text), "Output"),
      ...elsewhere(check),
      facts(suite),
    );
    this.check = check;
    history.replaceState(null, "", anchor(check));
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
  },
};

function block(text, draw, heading) {
  if (!text) return [];
  return heading ? [make("h3", {}, heading), draw(text)] : [draw(text)];
}

function numbers(check, more) {
  if (!hasNumbers(check)) return make("p", { class: "quiet" }, "Its numbers are in the JUnit file: this page has those of other checks.");
  const index = textOf("index", check);
  const rank = textOf("rank", check);
  const limit = numberOf("limit", check);
  const said = {
    "Max diff": readable(numberOf("max", check)),
    "Avg diff": readable(numberOf("avg", check)),
    "Relative error": readable(numberOf("rel", check)),
    Limit: absent(limit) ? "" : Number(limit) === 0 ? "equal to the bit" : readable(limit),
    Floor: readable(numberOf("floor", check)),
    "Scaled by": readable(numberOf("projection", check)),
    "Worst at": index ? `${index}${rank ? ` on rank ${rank}` : ""}` : "",
    Ranks: textOf("ranks", check),
    Elements: readable(numberOf("elements", check)),
    ...Object.fromEntries((more.other ?? []).map(([name, value]) => [worded(name), value])),
  };
  return definitions(Object.entries(said).filter(([, value]) => value));
}

/** A property's name as a label. */
const worded = (name) => `${name.charAt(0).toUpperCase()}${name.slice(1)}`.replaceAll("_", " ");

function definitions(pairs) {
  return make("dl", { class: "numbers" }, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, make("bdi", {}, value))]));
}

/** Of code whose lines are not broken, and which the keyboard can scroll. */
const LINES = { class: "lines", tabindex: 0, role: "group", "aria-label": "Commands" };

/** How to see it again: the check alone, or, of one that passes, its case. */
function again(more, suite) {
  const command = more.reproduce ? (more.reproduce.startsWith(" ") ? suite.reproduce + more.reproduce : more.reproduce) : suite.reproduce;
  if (!command) return [];
  const heading = make("h3", {}, more.reproduce ? "Reproduce" : "Run this case");
  return [heading, withCopy(make("p", { class: "command" }, make("code", LINES, `${suite.setup}\n${command}`)))];
}

/** The same check in every layout. */
function elsewhere(check) {
  const same = [];
  for (let other = 0; other < total; other += 1) if (entryOf[other] === entryOf[check]) same.push(other);
  const [view, row, column] = cellOf(check);
  const together = checksOf(suiteOf[check]).filter((other) => {
    const cell = cellOf(other);
    return view !== undefined && cell[0] === view && cell[1] === row && cell[2] === column;
  });
  return [
    ...block(together.length > 1 && together, (found) => chips(found, check, titleOf), "In the same cell"),
    ...block(same.length > 1 && same, (found) => chips(found, check, labelOf), "In every layout"),
  ];
}

function chips(checks, current, name) {
  const buttons = checks.map((check) => {
    const status = statusOf(check);
    const told = { type: "button", class: look(check), "aria-current": check === current && "true" };
    const said = make("span", { class: "hidden" }, ` ${status.word}`);
    const button = make("button", told, status.bad ? `${status.glyph} ` : "", name(check), make("small", {}, shortOf(check)), said);
    button.addEventListener("click", () => {
      sheet.open(check);
      byId("sheet-title").tabIndex = -1;
      byId("sheet-title").focus();
    });
    return button;
  });
  return make("div", { class: "chips" }, ...buttons);
}

function facts(suite) {
  const pairs = suite.facts.map(([name, value]) => [worded(name), value]);
  return make("details", {}, make("summary", {}, "About this case"), definitions([["Testsuite", suite.name], ...pairs]));
}

/* ---------- Start ---------- */

startTheme();
document.querySelectorAll(".command").forEach(withCopy);
map.start();
list.start();
startLayouts();
sheet.start();
