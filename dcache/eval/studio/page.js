// The page of `dcache studio`. The server sends what happens as events; everything else is asked for.
import { asked, fill, restore } from "./form.js";
import { drawMap } from "./map.js";
import { blank, frames, put } from "./pictures.js";
import { drawPlot } from "./plot.js";

const one = (id) => document.getElementById(id);
const SHOWN_IN_TABLE = ["speedup", "PSNR", "uncached", "cached", "computed", "FLOPs", "SSIM", "held"];
const state = { setup: null, run: null, shown: null, comparisons: new Map() };

const theme = one("theme"), root = document.documentElement;
theme.addEventListener("click", () => {
  const dark = getComputedStyle(root).colorScheme === "dark"
    || (getComputedStyle(root).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = dark ? "light" : "dark";
});

function fail(message) {
  one("error").textContent = message;
  one("error").hidden = !message;
}

const SILENT = "The server does not answer: is `dcache studio` still running?";

async function post(address, content) {
  const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
  const answer = await fetch(address, sent).catch(() => { throw new Error(SILENT); });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

one("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  fail("");
  try {
    await post("/runs", asked());
    // Below the form on a narrow screen.
    if (matchMedia("(max-width: 820px)").matches) one("progress").scrollIntoView();
  } catch (error) { fail(error.message); }
});
one("stop").addEventListener("click", async () => {
  try {
    await post("/stop", {});
    if (state.run) one("status").textContent = "stopping before the next evaluation …";
  } catch (error) { fail(error.message); }
});

// The form outlives a reload of this tab, where the browser lets a page remember something.
function recall() {
  try {
    const saved = sessionStorage.getItem("form");
    if (saved) restore(JSON.parse(saved));
    addEventListener("pagehide", () => sessionStorage.setItem("form", JSON.stringify(asked())));
  } catch (error) { console.info(`the form is not remembered: ${error.message}`); }
}

// ---- progress
const WARM = { "warm-up": 0, timed: 1 };

function busy(run) {
  state.run = run;
  one("run").disabled = Boolean(run);
  one("stop").disabled = !run;
}

function bars({ side, phase, done, total }, warmUp) {
  const share = total ? done / total : 0;
  const value = warmUp ? (WARM[phase] + share) / 2 : share;
  one(`bar-${side}`).value = value;
  const what = warmUp ? `${phase} call` : "call";
  one(`at-${side}`).textContent = `${what}, step ${done} of ${total}`;
}

function began(run) {
  busy(run);
  fail("");
  for (const side of ["uncached", "cached"]) {
    one(`bar-${side}`).value = 0;
    one(`at-${side}`).textContent = "";
  }
  one("status").textContent = `Run ${run.number}: ${run.label} on ${run.form.pipeline}`;
  one("result").hidden = true;
  blank();
  if (run.picture) early(run);
  if (run.progress) bars(run.progress, run.form.warm_up);
}

function early(run) {
  one("bar-uncached").value = 1;
  one("at-uncached").textContent = `${run.seconds.toFixed(2)} s${run.remembered ? ", remembered" : ""}`;
  frames(run.picture);
  put("uncached", run.number);
  one("under-uncached").textContent = `${run.seconds.toFixed(2)} s`;
}

function ended(message) {
  busy(null);
  one("status").textContent = message;
}

// A run that gave nothing leaves the one before it on the page.
function back() {
  const before = state.comparisons.get(state.shown);
  if (before) show(before);
  else blank();
}

// ---- a finished comparison
const python = (text) => JSON.stringify(text).replace(/\\u007f/g, "\\x7f");

function code({ line, form, steps, guidance }) {
  const { condition } = state.setup.pipelines.find((p) => p.name === form.pipeline) ?? {};
  const parts = condition === "prompt" ? [python(form.prompt)] : condition ? [`class_labels=[${form.prompt}]`] : [];
  if (steps !== null) parts.push(`num_inference_steps=${steps}`);
  if (guidance !== null) parts.push(`guidance_scale=${guidance}`);
  parts.push(`generator=torch.Generator().manual_seed(${form.seed})`);
  return `import dcache, torch\n\n${line}\nout = pipe(\n${parts.map((part) => `    ${part},\n`).join("")})\nprint(dcache.stats(pipe))`;
}

function figure({ title, text, what }) {
  const box = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
  term.textContent = title;
  value.textContent = text;
  box.title = what;
  box.append(term, value);
  return box;
}

function show(comparison) {
  state.shown = comparison.number;
  const run = comparison.number, text = Object.fromEntries(comparison.figures.map((f) => [f.title, f.text]));
  blank();
  frames(comparison.picture);
  put("uncached", run);
  put("cached", run);
  one("status").textContent = `Run ${run}: ${comparison.label} on ${comparison.form.pipeline}, speedup ${text.speedup}, PSNR ${text.PSNR}`;
  for (const side of ["uncached", "cached"]) {
    one(`bar-${side}`).value = 1;
    one(`at-${side}`).textContent = text[side] + (side === "uncached" && comparison.remembered ? ", remembered" : "");
  }
  one("under-uncached").textContent = text.uncached;
  one("cached-name").textContent = comparison.label;
  one("under-cached").textContent = `${text.cached}, ${text.PSNR}`;
  one("figures").replaceChildren(...comparison.figures.map(figure));
  const notes = comparison.plan ? [comparison.plan, ...comparison.notes] : comparison.notes;
  one("notes").replaceChildren(...notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
  one("heading").textContent = comparison.map?.heading ?? "nothing was recorded";
  one("cell").textContent = "Point at a square, or move with the arrow keys.";
  drawMap(one("map"), comparison.map, comparison.reasons, (said) => { one("cell").textContent = said; });
  one("code").textContent = code(comparison);
  one("schedule").href = `/runs/${run}/schedule.json`;
  one("schedule").hidden = !comparison.map;
  for (const side of ["uncached", "cached"]) {
    one(`save-${side}`).href = `/runs/${run}/${side}.png`;
    one(`save-${side}`).download = `run-${run}-${side}.png`;
  }
  one("result").hidden = false;
  for (const row of one("rows").rows) row.setAttribute("aria-current", String(Number(row.dataset.run) === run));
  plot();
}

function plot() {
  const shown = state.comparisons.get(state.shown), part = one("plot-part");
  if (!shown) return;
  // Its width is that of the page.
  part.hidden = false;
  part.hidden = !drawPlot(one("plot"), [...state.comparisons.values()], shown, one("by").value, (run) => { if (!state.run) show(run); });
}
one("by").addEventListener("change", plot);
addEventListener("resize", plot);

one("copy").addEventListener("click", async () => {
  const selection = getSelection(), range = document.createRange();
  range.selectNodeContents(one("code"));
  selection.removeAllRanges();
  selection.addRange(range);
  try {
    await navigator.clipboard.writeText(one("code").textContent);
    one("copy").textContent = "copied";
  } catch {
    // Not allowed here: the text is selected, and Ctrl+C copies it.
    one("copy").textContent = "selected";
  }
  setTimeout(() => { one("copy").textContent = "copy"; }, 1500);
});

function remember(comparison) {
  state.comparisons.set(comparison.number, comparison);
  const row = document.createElement("tr"), text = Object.fromEntries(comparison.figures.map((f) => [f.title, f.text]));
  row.dataset.run = comparison.number;
  const cells = [comparison.number, comparison.label, comparison.form.prompt, comparison.form.pipeline, comparison.steps, ...SHOWN_IN_TABLE.map((title) => text[title])];
  cells.forEach((content, i) => {
    const cell = row.insertCell();
    cell.textContent = content ?? "";
    if (i === 0) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = content;
      button.setAttribute("aria-label", `show run ${content}`);
      cell.replaceChildren(button);
    }
    if (i === 2) {
      cell.className = "prompt";
      cell.title = content;
    }
  });
  row.addEventListener("click", () => { if (!state.run) show(comparison); });
  one("rows").prepend(row);
  one("history").hidden = false;
}

// ---- events
function listen() {
  const source = new EventSource("/events");
  const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
  on("state", async ({ session, run, kept }) => {
    // Another server: its runs have these numbers too, and its models and methods may be others.
    if (session !== (state.session ??= session)) return location.reload();
    for (const number of kept.filter((n) => !state.comparisons.has(n))) {
      const answer = await fetch(`/runs/${number}`);
      if (answer.ok) remember(await answer.json());
    }
    const newest = state.comparisons.get(Math.max(...state.comparisons.keys()));
    if (run) began(run);
    else {
      busy(null);
      if (newest && state.shown === null) show(newest);
      if (state.lost) one("status").textContent = "connected again";
    }
    state.lost = false;
    root.dataset.ready = "yes";
  });
  on("began", began);
  on("progress", (progress) => { if (state.run) bars(progress, state.run.form.warm_up); });
  on("uncached", early);
  on("done", (comparison) => {
    busy(null);
    remember(comparison);
    show(comparison);
  });
  on("failed", ({ number: run, message }) => { back(); ended(`Run ${run} failed`); fail(message); });
  on("stopped", ({ number: run }) => { back(); ended(`Run ${run} was stopped`); });
  source.addEventListener("error", () => {
    state.lost = true;
    one("status").textContent = SILENT;
    one("stop").disabled = true;
  });
}

async function begin() {
  state.setup = await (await fetch("/setup")).json();
  one("machine").textContent = state.setup.machine;
  const heads = ["run", "method", "prompt", "model", "steps", ...SHOWN_IN_TABLE];
  one("heads").replaceChildren(...heads.map((head) => Object.assign(document.createElement("th"), { textContent: head, scope: "col" })));
  fill(state.setup);
  recall();
  listen();
}
begin();
