// Speedup, by seconds or by operations, against PSNR: a point for each run with the settings of the one that is shown.
const SVG = "http://www.w3.org/2000/svg";

function drawn(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  element.textContent = text;
  return element;
}

function range(values, least) {
  const low = Math.min(...values), high = Math.max(...values), room = Math.max(0.15 * (high - low), least);
  return [low - room, high + room];
}

function ticks([low, high], most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => {
    const value = (Math.ceil(low / step) + i) * step;
    return [value, value.toFixed(digits)];
  });
}

// Baselines of labels, beside the point first; one that would cover another label is moved.
const SHIFTS = [4, -9, 17, -22, 30];

const alike = (a, b) => ["pipeline", "prompt", "seed", "steps", "guidance"].every((key) => a.form[key] === b.form[key]);

// Draws the runs that can be compared with `shown` into an element, if there are two or more; `show` opens one.
export function drawPlot(element, runs, shown, by, show) {
  const points = runs.filter((run) => alike(run, shown) && run.psnr !== null && run.speedup !== null)
    .map((run) => ({ run, speedup: by === "seconds" ? run.speedup : run.flops && 1 / run.flops, psnr: run.psnr }))
    .filter(({ speedup }) => speedup);
  if (points.length < 2) {
    element.replaceChildren();
    return false;
  }
  const width = element.clientWidth, height = 240, left = 44, right = width - 14, top = 20, bottom = height - 34;
  const across = range([1, ...points.map((p) => p.speedup)], 0.1), up = range(points.map((p) => p.psnr), 1);
  const x = (value) => left + ((value - across[0]) / (across[1] - across[0])) * (right - left);
  const y = (value) => bottom - ((value - up[0]) / (up[1] - up[0])) * (bottom - top);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "speedup and PSNR of the runs with these settings" });
  for (const [value, text] of ticks(across, Math.max(3, width / 110))) {
    svg.append(drawn("line", { x1: x(value), x2: x(value), y1: top, y2: bottom }), drawn("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, `${text}×`));
  }
  for (const [value, text] of ticks(up, 4)) {
    svg.append(drawn("line", { x1: left, x2: right, y1: y(value), y2: y(value) }), drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  svg.append(drawn("text", { x: 0, y: 11 }, "↑ PSNR, dB"), drawn("text", { x: right, y: height - 3, "text-anchor": "end" }, "speedup →"));
  const taken = [];
  for (const { run, speedup, psnr } of points) {
    const [cx, cy] = [x(speedup), y(psnr)], now = run.number === shown.number;
    const said = `run ${run.number}, ${run.label}: ${speedup.toFixed(2)}×, ${psnr.toFixed(1)} dB`;
    const dot = drawn("circle", { cx, cy, r: 6, tabindex: 0, role: "button", "aria-label": said, class: now ? "now" : "" });
    dot.append(drawn("title", {}, said));
    dot.addEventListener("click", () => show(run));
    dot.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      show(run);
    });
    const end = cx > right - 110, wide = 7 * run.label.length, from = end ? cx - 10 - wide : cx + 10;
    const free = (shift) => taken.every((box) => box[1] < from || box[0] > from + wide || Math.abs(box[2] - cy - shift) > 12);
    const shift = SHIFTS.find(free) ?? SHIFTS[0];
    taken.push([from, from + wide, cy + shift]);
    svg.append(dot, drawn("text", { class: now ? "name now" : "name", x: cx + (end ? -10 : 10), y: cy + shift, "text-anchor": end ? "end" : "start" }, run.label));
  }
  element.replaceChildren(svg);
  return true;
}
