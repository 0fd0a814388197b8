// What the page shows of a look: the tables, the charts, the counters.
const EVERY = 1000;  // ms between two looks
const SAMPLES = 120;  // in the charts
const ROWS = 12;  // routes that are shown at first

const sum = values => values.reduce((one, other) => one + other, 0);
const bound = values => values.length && !values.includes(null) ? sum(values) : null;
const waitingForThread = s => s.waiting_first + s.waiting_later;
const waitingForConnection = s => sum(s.pools.map(pool => pool.waiting));

const resources = new Table("resources", "Threads, and pools of connections", [
  ["What", r => r.name],
  ["Taken", r => r.capacity === null ? `${r.used}, no limit` : `${r.used} of ${r.capacity}`, "number"],
  ["Idle", r => r.idle ?? "–", "number"],
  ["Share", r => [r.used, r.idle || 0, r.capacity], "wide"],
  ["Waiting for one", r => r.waiting, "number"],
  ["Longest wait", r => seconds(r.longest), "number"],
], "");

const routes = new Table("routes", "Routes, the ones that matter first", [
  ["Route", ([name]) => name],
  ["Running", ([, r]) => r.running, "number"],
  ["Wait for a thread", ([, r]) => r.waiting_for_thread, "number"],
  ["Wait for a connection", ([, r]) => r.waiting_for_connection, "number"],
  ["Connections held", ([, r]) => r.connections, "number"],
  ["Of these idle", ([, r]) => r.connections_idle, "number"],
  ["Held time idle", ([, r]) => r.seconds_held ? `${Math.round(r.seconds_idle / r.seconds_held * 100)} %` : "–", "number"],
  ["Waited in all", ([, r]) => seconds(r.seconds_waited_for_thread + r.seconds_waited_for_connection), "number"],
], "No request has come so far.");

const DOING = { ended: LEAK, none: "outside of any request" };
const connections = new Table("connections", "Connections held longest", [
  ["By", c => c.by],
  ["Taken at", c => c.line || "–", "text"],
  ["Its request is", c => DOING[c.doing] || c.doing, "text"],
  ["Connections", c => c.number, "number"],
  ["Held for", c => seconds(c.seconds), "number"],
  ["Pool", c => c.is_async ? `${c.pool}, async` : c.pool, "text pool"],
], "Nobody has a connection.");

// Those of one line that do the same are one row: fifteen streams say no more than one.
function grouped(found) {
  const groups = new Map();
  for (const c of found) {
    const by = [c.method, c.route].filter(Boolean).join(" ") || (c.doing === "none" ? "no request" : "before any route");
    const key = JSON.stringify([by, c.line, c.doing, c.pool, c.is_async]);
    const group = groups.get(key) || { ...c, by, number: 0 };
    groups.set(key, { ...group, number: group.number + 1, seconds: Math.max(group.seconds, c.seconds) });
  }
  return [...groups];
}

// ---- routes that matter

const weights = new Map();

// What a route did a moment ago still counts a little: rows that change places can't be read.
function weighed(now) {
  for (const [name, r] of Object.entries(now.routes)) {
    const weight = 4 * (r.waiting_for_thread + r.waiting_for_connection) + 3 * r.connections_idle + r.connections + r.running;
    weights.set(name, Math.max(weight, 0.9 * (weights.get(name) || 0)));
  }
  return Object.entries(now.routes).sort((one, other) =>
    weights.get(other[0]) - weights.get(one[0]) || other[1].requests - one[1].requests || (one[0] < other[0] ? -1 : 1));
}

// ---- charts and counters

const CHARTS = [
  { title: "Threads", lines: [["a", "taken", s => s.threads_in_use], ["limit", "limit", s => s.limit]] },
  { title: "Connections", lines: [
    ["a", "out", s => sum(s.pools.map(pool => pool.out))],
    ["b", "idle", s => sum(s.pools.map(pool => pool.idle))],
    ["limit", "limit", s => bound(s.pools.map(pool => pool.capacity))],
  ] },
  { title: "Waiting", lines: [["a", "for a thread", waitingForThread], ["b", "for a connection", waitingForConnection]] },
];
const COUNTERS = [
  ["Stalls", s => s.stalls],
  ["Deadlocks averted", s => s.deadlocks_averted],
  ["Threads beyond the limit", s => s.threads_grown],
  ["Requests turned away", s => s.refused],
  ["Hops", s => s.hops],
  ["Hops that waited", s => s.waits],
];
for (const counter of COUNTERS) {
  make($("counters"), "dt", {}, counter[0]);
  counter.value = make($("counters"), "dd", {}, "–");
}
for (const chart of CHARTS) {
  const figure = make($("charts"), "figure");
  const caption = make(figure, "figcaption");
  make(caption, "b", {}, chart.title);
  for (const [kind, name] of chart.lines) make(caption, "span", { class: kind }, name);
  chart.svg = make(figure, "svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
  make(chart.svg, "line", { x1: 0, x2: 100, y1: 100, y2: 100 });
  chart.drawn = chart.lines.map(([kind]) => make(chart.svg, "polyline", { class: kind }));
  const axis = make(figure, "div", { class: "axis" });
  make(axis, "span", {}, `${SAMPLES * EVERY / 1000} s ago`);
  chart.top = make(axis, "span", {}, "");
  make(axis, "span", {}, "now");
}

function drawChart(chart, samples) {
  const values = chart.lines.map(([, , read]) => samples.map(read));
  const top = Math.max(1, ...values.flat()) * 1.05;
  values.forEach((series, line) => {
    const shift = SAMPLES - series.length;
    const points = series.map((value, i) => value === null ? "" :
      `${((shift + i) / (SAMPLES - 1) * 100).toFixed(2)},${(100 - value / top * 100).toFixed(2)}`);
    if (series.length === 1 && points[0]) points.unshift(points[0].replace(/^[^,]+/, "99"));
    chart.drawn[line].setAttribute("points", points.join(" "));
  });
  say(chart.top, `highest: ${Math.max(...values.flat())}`);
  const now = chart.lines.map(([, name], line) => `${name} ${values[line].at(-1) ?? "none"}`);
  chart.svg.setAttribute("aria-label", `${chart.title}, now: ${now.join(", ")}`);
}

let showAll = false;

function draw(samples) {
  const now = samples.at(-1);
  const threads = {
    name: "threads of the event loop", used: now.threads_in_use, capacity: now.limit, idle: null,
    waiting: waitingForThread(now), longest: now.longest_wait,
  };
  const pools = now.pools.map(p => ({
    name: p.pool, used: p.out, capacity: p.capacity, idle: p.idle, waiting: p.waiting, longest: p.longest_wait,
  }));
  resources.show([threads, ...pools].map((row, place) => [place, row]));
  const found = weighed(now);
  routes.show((showAll ? found : found.slice(0, ROWS)).map(pair => [pair[0], pair]));
  $("all").hidden = found.length <= ROWS;
  say($("all"), showAll ? `Show ${ROWS} routes only` : `Show all ${found.length} routes`);
  const [told, out] = [now.connections.length, sum(now.pools.map(pool => pool.out))];
  say(connections.caption, `Connections held longest${told < out ? `: ${told} of ${out}` : ""}`);
  connections.table.classList.toggle("of-one", now.pools.length === 1);
  connections.show(grouped(now.connections));
  for (const chart of CHARTS) drawChart(chart, samples);
  for (const counter of COUNTERS) say(counter.value, counter[1](now));
  say($("whose"), `process ${now.pid}`);
}
