// The form: pipelines, methods that fit them, and the slider that writes an option.
const one = (id) => document.getElementById(id);
const form = one("form"), prompt = one("prompt"), method = one("method"), options = one("options"), speedup = one("speedup");
let setup = null, example = 0;
const pipeline = () => setup.pipelines.find((p) => p.name === one("pipeline").value);
const own = () => setup.entries.find((entry) => entry.name === method.value);

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
  const before = method.value, all = Object.keys(setup.methods);
  const fit = all.filter((m) => !unfit[m] && m !== "tuned");
  const groups = [];
  if (!unfit.tuned) groups.push(group("by speedup", [option("tuned", "tuned")]));
  if (setup.entries.length) {
    groups.push(group("of the command line", setup.entries.map((e) => option(e.name, e.label))));
  }
  groups.push(group("methods", fit.map((m) => option(m, m))));
  groups.push(group("do not fit as they are", all.filter((m) => unfit[m]).map((m) => option(m, m))));
  method.replaceChildren(...groups);
  if ([...method.options].some((o) => o.value === before && !unfit[before])) method.value = before;
  document.title = `${name} · dcache studio`;
  chooseMethod();
}

function chooseMethod() {
  const entry = own(), about = setup.methods[method.value];
  const unfit = pipeline().unfit[method.value];
  one("method-facts").textContent = entry ? "as the command line named it" : unfit ?? about.summary;
  one("options-row").hidden = Boolean(entry);
  const known = entry ? {} : about.options;
  const defaults = Object.entries(known).map(([name, value]) => `${name}=${value}`);
  options.value = "";
  options.placeholder = defaults[0] ?? "";
  one("options-facts").textContent = defaults.length ? `defaults: ${defaults.join(", ")}` : "it takes no options";
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

function followOptions() {
  const asked = /(?:^|,)\s*speedup\s*=\s*([\d.]+)/.exec(options.value);
  if (asked && Number(asked[1]) > 1) speedup.value = asked[1];
  one("speedup-shown").textContent = asked ? `${asked[1]}×` : "";
}
options.addEventListener("input", followOptions);
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

// What the form asks for, as the server reads it.
export function asked() {
  return {
    pipeline: one("pipeline").value, prompt: prompt.value, seed: number("seed"), steps: number("steps"),
    guidance: number("guidance"), method: method.value, options: own() ? "" : options.value, warm_up: one("warm-up").checked,
  };
}

// Puts back what `asked` said before the page was loaded again, as far as the server still offers it.
export function restore(saved) {
  if (!setup.pipelines.some((p) => p.name === saved.pipeline)) return;
  one("pipeline").value = saved.pipeline;
  choosePipeline();
  if ([...method.options].some((o) => o.value === saved.method)) {
    method.value = saved.method;
    chooseMethod();
    options.value = saved.options;
    followOptions();
  }
  prompt.value = saved.prompt;
  for (const id of ["seed", "steps", "guidance"]) one(id).value = saved[id] ?? "";
  one("warm-up").checked = saved.warm_up;
}

// Fills the form; `content` is what the server says of its pipelines and methods.
export function fill(content) {
  setup = content;
  one("pipeline").replaceChildren(...setup.pipelines.map((p) => option(p.name, p.name)));
  choosePipeline();
}
