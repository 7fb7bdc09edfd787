"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const one = (selector, inside = document) => inside.querySelector(selector);
const data = read("data"), clips = read("clips");

// Light or dark: what the system says until the button says otherwise.
one("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.style.colorScheme
    ? root.style.colorScheme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.style.colorScheme = dark ? "light" : "dark";
});

// The table: a click on a heading sorts, best first, and a second one turns it round. Empty cells stay below.
all(".figures thead tr:last-child th").forEach((head, index, heads) => {
  const better = index ? data.columns[index - 1].better : "lower";
  one("button", head).addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    const first = better === "higher" ? "descending" : "ascending";
    const now = before ? (before === "ascending" ? "descending" : "ascending") : first;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", now);
    const body = one(".figures tbody:last-of-type"), sign = now === "ascending" ? 1 : -1;
    const key = (row) => (index ? row.cells[index].dataset.value : row.cells[0].textContent);
    const order = (a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      return sign * (index ? left - right : left.localeCompare(right));
    };
    body.append(...[...body.rows].sort(order));
  });
});

// The plot.
const svg = one("#plot svg"), tip = one("#plot .tip");

function draw(name, attributes, text, parent = svg) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push([i * step, (i * step).toFixed(digits)]);
  return found;
}

function range(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = 0.1 * (high - low) || 0.1 * Math.abs(high) || 0.1;
  return [low - room, high + room];
}

function plot() {
  const across = data.columns.find((c) => c.key === one("#across").value);
  const up = data.columns.find((c) => c.key === one("#up").value);
  const points = (across && up ? data.rows.slice(1) : [])
    .map((row) => ({ row, x: row.figures[across.key], y: row.figures[up.key] }))
    .filter(({ x, y }) => x.value !== null && y.value !== null);
  svg.replaceChildren();
  if (!points.length) {
    draw("text", { y: 20 }, "No method has both figures.");
    return;
  }
  const uncached = data.rows[0].figures[up.key];

  const width = svg.clientWidth, height = Math.min(460, Math.max(300, 0.5 * width));
  const left = 56, right = width - 16, top = 24, bottom = height - 46;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  const [x0, x1] = range([1, ...points.map((p) => p.x.value)]);
  const reach = points.flatMap((p) => [p.y.low ?? p.y.value, p.y.high ?? p.y.value]);
  const [y0, y1] = range(uncached.value === null ? reach : [...reach, uncached.value]);
  const sign = up.better === "lower" ? -1 : 1;
  const toX = (x) => left + ((x - x0) / (x1 - x0)) * (right - left);
  const toY = (y) => {
    const share = (y - y0) / (y1 - y0);
    return bottom - (sign > 0 ? share : 1 - share) * (bottom - top);
  };

  for (const [value, text] of ticks(x0, x1, Math.max(3, width / 110))) {
    draw("line", { class: "grid", x1: toX(value), x2: toX(value), y1: top, y2: bottom });
    draw("text", { x: toX(value), y: bottom + 18, "text-anchor": "middle" }, `${text}×`);
  }
  for (const [value, text] of ticks(y0, y1, height / 60)) {
    draw("line", { class: "grid", x1: left, x2: right, y1: toY(value), y2: toY(value) });
    draw("text", { x: left - 8, y: toY(value) + 4, "text-anchor": "end" }, text);
  }
  draw("text", { x: right, y: height - 6, "text-anchor": "end" }, `${across.title} →`);
  const turned = sign > 0 ? "" : " (axis turned: lower is better)";
  draw("text", { x: 0, y: 10 }, `↑ ${up.title}${turned}`);
  if (uncached.value !== null) {
    const y = toY(uncached.value);
    draw("line", { class: "reference", x1: left, x2: right, y1: y, y2: y });
    draw("text", { x: right, y: y - 5, "text-anchor": "end" }, `uncached ${uncached.text}`);
  }

  const beats = (a, b) => a.x.value >= b.x.value && sign * a.y.value >= sign * b.y.value
    && (a.x.value > b.x.value || a.y.value !== b.y.value);
  const ahead = points.filter((p) => !points.some((other) => beats(other, p)));
  ahead.sort((a, b) => a.x.value - b.x.value);
  points.forEach((p) => Object.assign(p, { at: [toX(p.x.value), toY(p.y.value)] }));
  draw("polyline", { class: "front", points: ahead.map((p) => p.at.join()).join(" ") });
  for (const { at: [x], y } of points) {
    if (y.low !== null) draw("line", { class: "interval", x1: x, x2: x, y1: toY(y.low), y2: toY(y.high) });
  }
  for (const p of points) {
    const [cx, cy] = p.at, said = `${p.row.label}\n${across.title} ${p.x.text}\n${up.title} ${p.y.text}`
      + (p.y.spread ? ` (${p.y.spread})` : "");
    const dot = draw("circle", {
      cx, cy, r: 6, tabindex: 0, role: "img", "aria-label": said, class: ahead.includes(p) ? "ahead" : "",
    });
    const show = () => {
      tip.textContent = said;
      tip.hidden = false;
      tip.style.left = `${Math.min(cx + 12, width - tip.offsetWidth)}px`;
      tip.style.top = `${cy + 12}px`;
    };
    ["pointerenter", "focus"].forEach((event) => dot.addEventListener(event, show));
    ["pointerleave", "blur"].forEach((event) => dot.addEventListener(event, () => { tip.hidden = true; }));
  }
  const dots = points.map(({ at: [x, y] }) => [x - 7, y - 7, x + 7, y + 7]);
  const bars = points.map(({ at: [x], y }) => [x, toY(y.low ?? y.value), toY(y.high ?? y.value)])
    .map(([x, a, b]) => [x - 1, Math.min(a, b), x + 1, Math.max(a, b)]);
  const line = ahead.slice(1).flatMap(({ at: [x, y] }, i) => Array.from({ length: 41 }, (_, n) => {
    const [u, v] = ahead[i].at;
    return [u + (n / 40) * (x - u), v + (n / 40) * (y - v)];
  }));
  label(points, [left, top, right, bottom], [...dots, ...bars, ...line.map(([x, y]) => [x, y, x, y])]);
}

// Each name at the first place around its point where it covers nothing that is taken.
function label(points, [left, top, right, bottom], taken) {
  const away = [[0, 1], [0, -1], [-1, 0], [1, 0], [-1, 1], [-1, -1], [1, 1], [1, -1]];
  const places = [10, 22, 36, 52].flatMap((d) => away.map(([dy, dx]) => [dx * d, dy * d]));
  const apart = (a, b) => a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1];
  for (const { row, at: [x, y] } of points) {
    const text = draw("text", { class: "name" }, row.label);
    const wide = text.getComputedTextLength(), tall = 12;
    const box = places
      .map(([dx, dy]) => {
        const from = x + dx - (dx < 0 ? wide : dx > 0 ? 0 : wide / 2);
        return [from, y + dy - tall / 2, from + wide, y + dy + tall / 2, dx, dy];
      })
      .find((b) => b[0] >= left && b[2] <= right && b[1] >= top && b[3] <= bottom && taken.every((t) => apart(b, t)));
    // One that fits nowhere is left to the tip.
    if (!box) { text.remove(); continue; }
    text.setAttribute("x", box[0]);
    text.setAttribute("y", box[3] - 2);
    taken.push(box);
    if (Math.hypot(box[4], box[5]) > 20) {
      const end = [Math.min(Math.max(x, box[0]), box[2]), Math.min(Math.max(y, box[1]), box[3])];
      draw("line", { class: "leader", x1: x, y1: y, x2: end[0], y2: end[1] });
    }
  }
}

all("#plot select").forEach((select) => select.addEventListener("change", plot));
addEventListener("resize", plot);
plot();

// The pictures. Below each cached one lies the uncached one of its row; what is seen of it is left to the style.
const section = one("#pictures"), rows = all(".grid tbody tr").map((row) => all(".cell", row));
for (const [uncached, ...cells] of rows) {
  for (const cell of cells) {
    const base = new Image();
    base.className = "base";
    base.alt = "";
    base.src = one("img", uncached).src;
    one(".frame", cell).prepend(base);
  }
}
all("[name=mode]").forEach((radio) => radio.addEventListener("change", () => { section.dataset.mode = radio.value; }));
section.dataset.mode = one("[name=mode]:checked").value;

function slider(id, set) {
  const input = document.getElementById(id), shown = one(`output[for=${id}]`);
  if (!input) return;
  const change = () => {
    const text = set(Number(input.value));
    if (shown) shown.textContent = text;
  };
  input.addEventListener("input", change);
  change();
}
slider("gain", (power) => {
  section.style.setProperty("--gain", 2 ** power);
  return `×${2 ** power}`;
});
slider("size", (pixels) => section.style.setProperty("--side", `${pixels}px`));
slider("frame", (frame) => {
  section.style.setProperty("--frame", frame);
  return `${frame + 1} of ${clips.frames}`;
});
section.addEventListener("pointermove", (event) => {
  const frame = event.target.closest(".cell")?.querySelector(".frame");
  if (!frame) return;
  const box = frame.getBoundingClientRect();
  frame.style.setProperty("--wipe", `${(100 * (event.clientX - box.left)) / box.width}%`);
});

const play = one("#play");
if (play) {
  const input = one("#frame");
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const told = () => { play.textContent = playing ? "pause" : "play"; };
  play.addEventListener("click", () => { playing = !playing; told(); });
  input.addEventListener("pointerdown", () => { playing = false; told(); });
  told();
  setInterval(() => {
    if (!playing) return;
    input.value = (Number(input.value) + 1) % clips.frames;
    input.dispatchEvent(new Event("input"));
  }, clips.milliseconds);
}

// One picture, enlarged: arrows go to its neighbours, the space bar shows the uncached one.
const dialog = one("dialog"), large = one(".large");
let place = [0, 0];

function enlarge(row, column) {
  place = [(row + rows.length) % rows.length, (column + rows[0].length) % rows[0].length];
  const cell = rows[place[0]][place[1]], copy = document.createElement("div");
  copy.className = "cell";
  copy.append(one(".frame", cell).cloneNode(true));
  large.replaceChildren(copy);
  const figures = one("small", cell).textContent.trim();
  one("#what").textContent = `${one(".top", cell).alt}${figures && ` (${figures})`}`;
  if (!dialog.open) dialog.showModal();
}

rows.forEach((cells, row) => cells.forEach((cell, column) => {
  cell.addEventListener("click", () => enlarge(row, column));
}));
all("[data-go]").forEach((button) => button.addEventListener("click", () => {
  const go = Number(button.dataset.go);
  if (go) enlarge(place[0], place[1] + go);
  else dialog.close();
}));
dialog.addEventListener("keydown", (event) => {
  const go = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], " ": [0, 0] }[event.key];
  if (!go) return;
  event.preventDefault();
  if (event.key === " ") large.classList.add("hold");
  else enlarge(place[0] + go[0], place[1] + go[1]);
});
dialog.addEventListener("keyup", () => large.classList.remove("hold"));
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

document.documentElement.dataset.ready = "yes";
