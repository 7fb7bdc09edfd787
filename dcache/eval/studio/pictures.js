// The pictures: side by side, a wipe, the difference; the frames of clips.
const one = (id) => document.getElementById(id);
const section = one("pictures"), compared = one("compared");
let clip = { frames: 1, milliseconds: 125 }, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

export function blank() {
  for (const id of ["uncached", "cached", "below"]) {
    one(id).hidden = true;
    one(id).removeAttribute("src");
    one(id).parentElement.classList.remove("full");
  }
  for (const id of ["under-uncached", "under-cached"]) one(id).textContent = "";
  one("cached-name").textContent = "cached";
}

export function frames(picture) {
  clip = picture;
  section.style.setProperty("--ratio", `${picture.width} / ${picture.height}`);
  section.style.setProperty("--frames", picture.frames);
  section.classList.toggle("clip", picture.frames > 1);
  section.classList.toggle("tiny", picture.width < 256);
  one("frame").max = picture.frames - 1;
  turn(0);
}

export function put(side, run) {
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
