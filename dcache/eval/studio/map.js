// The schedule: a square for each site and evaluation, dark where the site was computed.
const SVG = "http://www.w3.org/2000/svg";

function made(name, attributes = {}, text = "") {
  const element = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  element.textContent = text;
  return element;
}

function drawn(name, attributes) {
  const element = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  return element;
}

function squares(strips, mark) {
  return strips.map(({ cells }, row) => [...cells]
    .map((cell, i) => (cell === mark ? `M${i} ${row}h1v1h-1z` : "")).join("")).join("");
}

// What one square stands for, in words.
function meaning(strip, evaluation, reasons) {
  const why = Object.entries(reasons[evaluation] ?? {});
  const cause = why.length === 1 ? why[0][0] : why.map(([reason, count]) => `${reason} ${count}×`).join(", ");
  const what = strip.cells[evaluation] === "1" ? `computed${cause && ` (${cause})`}` : "predicted";
  return `evaluation ${evaluation}, ${strip.sites}: ${what}`;
}

function ticks(steps) {
  const gap = [1, 2, 5, 10, 20, 50, 100].find((n) => steps / n <= 12) ?? 200;
  return Array.from({ length: Math.ceil(steps / gap) }, (_, i) => i * gap);
}

function table({ title, strips }, steps, reasons, say) {
  const figure = made("figure", { class: "table" }), grid = made("div", { class: "strips" });
  const sites = made("ol", { class: "sites" }), shares = made("ol");
  strips.forEach((strip) => {
    sites.append(made("li", { title: strip.sites }, strip.sites));
    shares.append(made("li", {}, strip.share));
  });
  const label = `${strips.length} rows of sites, ${steps} evaluations: ${strips.map((s) => `${s.sites} ${s.share}`).join(", ")} computed`;
  const svg = drawn("svg", {
    viewBox: `0 0 ${steps} ${strips.length}`, preserveAspectRatio: "none", tabindex: 0, role: "img", "aria-label": label,
  });
  svg.append(drawn("path", { class: "predicted", d: squares(strips, "0") }));
  svg.append(drawn("path", { class: "computed", d: squares(strips, "1") }));
  const cursor = drawn("rect", { width: 1, height: 1, visibility: "hidden" });
  svg.append(cursor);
  let at = [0, 0];
  const show = (evaluation, row) => {
    at = [Math.max(0, Math.min(steps - 1, evaluation)), Math.max(0, Math.min(strips.length - 1, row))];
    cursor.setAttribute("x", at[0]);
    cursor.setAttribute("y", at[1]);
    cursor.setAttribute("visibility", "visible");
    say(meaning(strips[at[1]], at[0], reasons));
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(Math.floor(((event.clientX - box.left) / box.width) * steps), Math.floor(((event.clientY - box.top) / box.height) * strips.length));
  });
  svg.addEventListener("pointerleave", () => cursor.setAttribute("visibility", "hidden"));
  svg.addEventListener("focus", () => show(...at));
  svg.addEventListener("blur", () => cursor.setAttribute("visibility", "hidden"));
  svg.addEventListener("keydown", (event) => {
    const go = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!go) return;
    event.preventDefault();
    show(at[0] + go[0], at[1] + go[1]);
  });
  const scale = made("div", { class: "ticks" });
  for (const i of ticks(steps)) {
    const tick = made("span", {}, i);
    tick.style.left = `${(100 * (i + 0.5)) / steps}%`;
    scale.append(tick);
  }
  grid.style.setProperty("--rows", strips.length);
  grid.style.setProperty("--tall", strips.length > 40 ? "14px" : "22px");
  grid.append(sites, svg, shares, scale);
  figure.append(made("figcaption", {}, title), grid);
  return figure;
}

// Draws a schedule into an element; `say` is told what is pointed at.
export function drawMap(element, map, reasons, say) {
  element.replaceChildren(...(map ? map.tables.map((each) => table(each, map.steps, reasons, say)) : []));
}
