// The page of `dcache studio`. The server sends what happens as events; everything else is asked for.
import { drawMap } from "./map.js";

const one = (id) => document.getElementById(id);
const SHOWN_IN_TABLE = ["speedup", "PSNR", "uncached", "cached", "computed", "FLOPs", "SSIM", "held"];
const state = { setup: null, run: null, shown: null, comparisons: new Map() };

const theme = one("theme"), root = document.documentElement;
theme.addEventListener("click", () => {
  const dark = getComputedStyle(root).colorScheme === "dark"
    || (getComputedStyle(root).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = dark ? "light" : "dark";
});

// ---- the form
const form = one("form"), prompt = one("prompt"), method = one("method"), options = one("options"), speedup = one("speedup");
const pipeline = () => state.setup.pipelines.find((p) => p.name === one("pipeline").value);
const own = () => state.setup.entries.find((entry) => entry.name === method.value);
let example = 0;

function option(value, text, disabled = false) {
  const element = new Option(text, value);
  element.disabled = disabled;
  return element;
}

function group(label, children) {
  const element = document.createElement("optgroup");
  element.label = label;
  element.append(...children);
  return element;
}

function choosePipeline() {
  const { name, class: kind, condition, steps, guidance, prompts, unfit } = pipeline();
  one("pipeline-facts").textContent = kind;
  one("steps").value = steps ?? "";
  one("guidance").value = guidance ?? "";
  one("guidance-row").hidden = guidance === null;
  one("prompt-label").textContent = condition === "class_labels" ? "Class number" : "Prompt";
  for (const id of ["prompt", "prompt-label"]) one(id).hidden = condition === "";
  one("example").hidden = prompts.length < 2;
  example = 0;
  prompt.value = prompts[0] ?? (condition === "class_labels" ? "0" : "");
  const before = method.value, all = Object.keys(state.setup.methods);
  const fit = all.filter((m) => !unfit[m] && m !== "tuned");
  const groups = [];
  if (!unfit.tuned) groups.push(group("by speedup", [option("tuned", "tuned")]));
  if (state.setup.entries.length) {
    groups.push(group("of the command line", state.setup.entries.map((e) => option(e.name, e.label))));
  }
  groups.push(group("methods", fit.map((m) => option(m, m))));
  groups.push(group("do not fit as they are", all.filter((m) => unfit[m]).map((m) => option(m, m))));
  method.replaceChildren(...groups);
  if ([...method.options].some((o) => o.value === before && !unfit[before])) method.value = before;
  document.title = `${name} · dcache studio`;
  chooseMethod();
}

function chooseMethod() {
  const entry = own(), about = state.setup.methods[method.value];
  const unfit = pipeline().unfit[method.value];
  one("method-facts").textContent = entry ? "as the command line named it" : unfit ?? about.summary;
  one("options-row").hidden = Boolean(entry);
  const known = entry ? {} : about.options;
  const defaults = Object.entries(known).map(([name, value]) => `${name}=${value}`);
  options.value = "";
  options.placeholder = defaults[0] ?? "";
  one("options-facts").textContent = defaults.length ? `as it comes: ${defaults.join(", ")}` : "it takes no options";
  one("speedup-row").hidden = !("speedup" in known);
  if ("speedup" in known) moveSpeedup();
}

// The slider writes the option, and the option moves the slider.
function moveSpeedup() {
  const text = `speedup=${Number(speedup.value)}`, parts = options.value.split(",").filter((part) => part.trim());
  const others = parts.filter((part) => !/^\s*(speedup|quality)\s*=/.test(part));
  options.value = [text, ...others].join(",");
  one("speedup-shown").textContent = `${Number(speedup.value).toFixed(1)}×`;
}

options.addEventListener("input", () => {
  const asked = /(?:^|,)\s*speedup\s*=\s*([\d.]+)/.exec(options.value);
  if (asked && Number(asked[1]) > 1) speedup.value = asked[1];
  one("speedup-shown").textContent = asked ? `${asked[1]}×` : "";
});
speedup.addEventListener("input", moveSpeedup);
method.addEventListener("change", chooseMethod);
one("pipeline").addEventListener("change", choosePipeline);
one("example").addEventListener("click", () => {
  const { prompts } = pipeline();
  example = (example + 1) % prompts.length;
  prompt.value = prompts[example];
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

const number = (id) => (one(id).value === "" ? null : Number(one(id).value));

function fail(message) {
  one("error").textContent = message;
  one("error").hidden = !message;
}

async function post(address, content) {
  const answer = await fetch(address, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  fail("");
  const asked = {
    pipeline: one("pipeline").value, prompt: prompt.value, seed: number("seed"), steps: number("steps"),
    guidance: number("guidance"), method: method.value, options: own() ? "" : options.value, warm_up: one("warm-up").checked,
  };
  try { await post("/runs", asked); } catch (error) { fail(error.message); }
});
one("stop").addEventListener("click", async () => {
  one("status").textContent = "stopping before the next evaluation …";
  try { await post("/stop", {}); } catch (error) { fail(error.message); }
});

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

// ---- pictures
const section = one("pictures"), compared = one("compared");
let clip = { frames: 1, milliseconds: 125 }, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function blank() {
  for (const id of ["uncached", "cached", "below"]) {
    one(id).hidden = true;
    one(id).removeAttribute("src");
    one(id).parentElement.classList.remove("full");
  }
  for (const id of ["under-uncached", "under-cached"]) one(id).textContent = "";
  one("cached-name").textContent = "cached";
}

function frames(picture) {
  clip = picture;
  section.style.setProperty("--ratio", `${picture.width} / ${picture.height}`);
  section.style.setProperty("--frames", picture.frames);
  section.classList.toggle("clip", picture.frames > 1);
  section.classList.toggle("tiny", picture.width < 256);
  one("frame").max = picture.frames - 1;
  turn(0);
}

function put(side, run) {
  for (const id of side === "uncached" ? ["uncached", "below"] : ["cached"]) {
    const image = one(id);
    image.src = `/runs/${run}/${side}-strip.png`;
    image.alt = id === "below" ? "" : `${side} picture of run ${run}`;
    image.hidden = false;
    if (id !== "below") image.parentElement.classList.add("full");
  }
}

function turn(frame) {
  one("frame").value = frame;
  section.style.setProperty("--frame", frame);
}

function told() { one("play").textContent = playing ? "pause" : "play"; }
one("play").addEventListener("click", () => { playing = !playing; told(); });
one("frame").addEventListener("input", () => { playing = false; told(); turn(Number(one("frame").value)); });
let last = 0;
requestAnimationFrame(function next(now) {
  if (playing && clip.frames > 1 && now - last >= clip.milliseconds) {
    last = now;
    turn((Number(one("frame").value) + 1) % clip.frames);
  }
  requestAnimationFrame(next);
});
told();

document.querySelectorAll("[name=mode]").forEach((radio) => radio.addEventListener("change", () => { section.dataset.mode = radio.value; }));
section.dataset.mode = document.querySelector("[name=mode]:checked").value;
const wipe = one("wipe");
wipe.addEventListener("input", () => section.style.setProperty("--wipe", `${wipe.value}%`));
compared.addEventListener("pointermove", (event) => {
  if (section.dataset.mode !== "wipe") return;
  const box = compared.getBoundingClientRect();
  wipe.value = (100 * (event.clientX - box.left)) / box.width;
  wipe.dispatchEvent(new Event("input"));
});
one("gain").addEventListener("input", () => {
  const gain = 2 ** Number(one("gain").value);
  section.style.setProperty("--gain", gain);
  one("gain-shown").textContent = `×${gain}`;
});

// ---- a finished comparison
const python = (text) => JSON.stringify(text).replace(/\\u007f/g, "\\x7f");

function code({ line, form: asked, steps, guidance }) {
  const { condition } = state.setup.pipelines.find((p) => p.name === asked.pipeline) ?? {};
  const parts = condition === "prompt" ? [python(asked.prompt)] : condition ? [`class_labels=[${asked.prompt}]`] : [];
  if (steps !== null) parts.push(`num_inference_steps=${steps}`);
  if (guidance !== null) parts.push(`guidance_scale=${guidance}`);
  parts.push(`generator=torch.Generator().manual_seed(${asked.seed})`);
  return `import dcache, torch\n\n${line}\nout = pipe(${parts.join(", ")})\nprint(dcache.stats(pipe))`;
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
}

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
  on("state", async ({ run, kept }) => {
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
    one("bar-cached").value = 1;
    one("at-cached").textContent = comparison.figures.find((f) => f.title === "cached").text;
    ended(`Run ${comparison.number} is done: ${comparison.figures.slice(0, 2).map((f) => `${f.title} ${f.text}`).join(", ")}`);
    remember(comparison);
    show(comparison);
  });
  on("failed", ({ number: run, message }) => { ended(`Run ${run} failed`); fail(message); back(); });
  on("stopped", ({ number: run }) => { ended(`Run ${run} was stopped`); back(); });
  source.addEventListener("error", () => {
    state.lost = true;
    one("status").textContent = "The server does not answer: is `dcache studio` still running?";
  });
}

async function begin() {
  state.setup = await (await fetch("/setup")).json();
  one("machine").textContent = state.setup.machine;
  one("pipeline").replaceChildren(...state.setup.pipelines.map((p) => option(p.name, p.name)));
  const heads = ["run", "method", "prompt", "model", "steps", ...SHOWN_IN_TABLE];
  one("heads").replaceChildren(...heads.map((head) => Object.assign(document.createElement("th"), { textContent: head, scope: "col" })));
  choosePipeline();
  listen();
}
begin();
