// The page "Try it in the browser": pictures in, maps out, all of it here.

import {decodeGrey} from "./png.js";

const NAMES = {rgb: "colour", depth: "depth", ensemble: "both together"};
const MILLIMETRES = 0.001; // what depth of 16 bits is stored in nearly everywhere
const FAR = 5; // as polymodal.data.ranges: so many times apart, depths are of different units
const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];

const root = document.getElementById("try");
const form = root.querySelector("form"), said = root.querySelector(".said");
const legend = root.querySelector(".legend"), maps = root.querySelector(".maps");
const here = (file) => new URL(file, import.meta.url).href;

const model = await json("model.json"), scenes = await json("scenes.json");
let given = {}; // by modality: width, height, and a canvas of colours or the numbers of depth
let example = null; // the button of the scene that they are of
let turn = Promise.resolve(); // one thing after the other, as they were asked for
let runtime = null;
const sessions = {};

offerScenes();
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", ({target}) => {
  if (target.type === "file") inTurn(() => takeOwn(target.name, target.files[0]));
  else inTurn(predict);
});
for (const drop of root.querySelectorAll(".drop")) {
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const input = drop.querySelector("input");
    input.files = event.dataTransfer.files;
    inTurn(() => takeOwn(input.name, input.files[0]));
  });
}
say("Take a scene, or give pictures of your own: colour, depth, or both.");

/** Do a job when those before it are done; where it fails, nothing that was found before stays beside its message. */
function inTurn(job) {
  turn = turn.then(job).catch((error) => {
    show([], []);
    say(error.message, true);
  });
}

async function json(file) {
  return (await fetch(here(file))).json();
}

function say(text, bad = false) {
  said.textContent = text;
  said.classList.toggle("bad", bad);
  said.setAttribute("role", bad ? "alert" : "status");
}

// What is given ------------------------------------------------------------------------------------------------------

function offerScenes() {
  for (const key of scenes) {
    const button = element("button", {type: "button", ariaPressed: "false"});
    button.append(element("img", {src: here(`scenes/rgb-${key}.jpg`), alt: `Scene ${key}`}));
    button.addEventListener("click", () => inTurn(() => takeScene(key, button)));
    form.querySelector(".scenes").append(button);
  }
}

async function takeScene(key, button) {
  const [rgb, depth] = await Promise.all(
    [`rgb-${key}.jpg`, `depth-${key}.png`].map(async (file) => (await fetch(here(`scenes/${file}`))).blob()),
  );
  leaveScene();
  for (const input of root.querySelectorAll("input[type=file]")) input.value = "";
  given = {rgb: await colours(rgb), depth: await depths(depth)};
  example = button;
  button.ariaPressed = "true";
  await predict();
}

function leaveScene() {
  given = {};
  if (example) example.ariaPressed = "false";
  example = null;
}

async function takeOwn(name, file) {
  if (example) leaveScene(); // its other picture is of another scene
  delete given[name];
  if (file) {
    try {
      given[name] = await (name === "depth" ? depths : colours)(file);
    } catch (error) {
      throw new Error(`${NAMES[name]}: ${file.name}: ${error.message}`);
    }
    form.querySelector(`[name=use][value=${name}]`).checked = true;
  }
  await predict();
}

async function colours(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {colorSpaceConversion: "none", premultiplyAlpha: "none"});
  } catch {
    throw new Error("cannot be read as a picture.");
  }
  const canvas = canvasOf(bitmap.width, bitmap.height, (context) => context.drawImage(bitmap, 0, 0));
  if (pixels(canvas).some((value, i) => i % 4 === 3 && value < 255)) throw new Error("has transparent pixels. Save it without.");
  return {width: bitmap.width, height: bitmap.height, canvas};
}

async function depths(blob) {
  const decoded = await decodeGrey(await blob.arrayBuffer());
  form.scale.value = decoded.bits === 16 ? MILLIMETRES : model.inputs.depth.scale;
  return decoded;
}

// What the network is given ------------------------------------------------------------------------------------------

/** Width and height that a picture is predicted at: its own, or fewer pixels, as many as the network knows. */
function reduced({width, height}) {
  const factor = Math.min(1, Math.sqrt((model.size[0] * model.size[1]) / (width * height)));
  return [width, height].map((side) => Math.max(1, Math.round(side * factor)));
}

function colourInput({canvas}, [width, height]) {
  const data = pixels(canvasOf(width, height, (context) => {
    context.imageSmoothingQuality = "high";
    context.drawImage(canvas, 0, 0, width, height);
  }));
  const {mean, std} = model.inputs.rgb, plane = width * height, values = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < plane; i++) values[c * plane + i] = (data[4 * i + c] / 255 - mean[c]) / std[c];
  }
  return values;
}

/** Metres at the nearest pixels; NaN where nothing was measured. */
function metres(depth, [width, height]) {
  const scale = form.scale.valueAsNumber;
  if (!(scale > 0)) throw new Error("depth of 1 in the file: expected metres, a number above 0, such as 0.001.");
  const found = new Float32Array(width * height);
  for (let y = 0, to = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * depth.height) / height) * depth.width;
    for (let x = 0; x < width; x++, to++) {
      const value = depth.values[row + Math.floor(((x + 0.5) * depth.width) / width)];
      found[to] = value === model.inputs.depth.invalid || value === depth.missing ? NaN : value * scale;
    }
  }
  return found;
}

function depthInput(found) {
  const {mean, std} = model.inputs.depth;
  return found.map((value) => (Number.isNaN(value) ? 0 : (value - mean[0]) / std[0]));
}

/** What is odd about depths, a sentence; nothing where they are as those of the training. */
function odd(found) {
  const measured = found.filter((value) => !Number.isNaN(value)).sort();
  if (!measured.length) return "No pixel of the depth was measured. ";
  const [low, high] = [0.01, 0.99].map((share) => measured[Math.round(share * (measured.length - 1))]);
  const [least, most] = [model.inputs.depth.seen.low[0], model.inputs.depth.seen.high[0]];
  if (low < FAR * most && least < FAR * high) return "";
  return `Depth is ${low.toPrecision(3)} to ${high.toPrecision(3)} m, far from the ${least.toPrecision(2)} to ${most.toPrecision(2)} m that the network knows: is the unit right? `;
}

// What it predicts ---------------------------------------------------------------------------------------------------

async function predict() {
  form.querySelector(".unit").hidden = !given.depth;
  const used = Object.keys(model.inputs).filter((name) => given[name] && form.querySelector(`[value=${name}]`).checked);
  if (!used.length) {
    show([], []);
    say(Object.keys(given).length ? "Switch on colour or depth." : "Take a scene, or give pictures of your own: colour, depth, or both.");
    return;
  }
  const sizes = used.map((name) => `${given[name].width}×${given[name].height}`);
  if (new Set(sizes).size > 1) throw new Error(`Colour has ${sizes[0]} pixels and depth ${sizes[1]}: give aligned pictures of one size.`);
  const [width, height] = reduced(given[used[0]]);
  const depth = used.includes("depth") ? metres(given.depth, [width, height]) : null;
  const values = {rgb: () => colourInput(given.rgb, [width, height]), depth: () => depthInput(depth)};
  const session = await sessionOf(used);
  const images = used.map((name) => [name, new runtime.Tensor("float32", values[name](), [1, model.inputs[name].channels, height, width])]);
  const started = performance.now();
  const outputs = await session.run(Object.fromEntries(images));
  const milliseconds = Math.round(performance.now() - started);
  const names = used.length > 1 ? ["ensemble", ...used] : used;
  const pictures = Object.fromEntries(used.map((name) => [name, name === "depth" ? depthPicture(depth, width, height) : given.rgb.canvas]));
  show(names.map((name) => ({name, width, height, ...classesOf(outputs[`prediction_${name}`])})), pictures);
  const score = model.files[used.join("+")].mean_iou.ensemble.toFixed(1);
  say(`${depth ? odd(depth) : ""}Predicted from ${used.map((name) => NAMES[name]).join(" and ")} in ${milliseconds} ms, at ${width}×${height} pixels. On the test scenes of the rooms, such predictions have a mean IoU of ${score} %.`);
}

/** The network for some modalities; it and the runtime are loaded when they are first needed. */
async function sessionOf(used) {
  const key = used.join("+");
  if (!sessions[key]) {
    say("Loading the runtime and the network, once …");
    runtime ??= await loadRuntime();
    sessions[key] = await runtime.InferenceSession.create(here(model.files[key].file), {executionProviders: ["wasm"]});
  }
  return sessions[key];
}

async function loadRuntime() {
  try {
    const loaded = await import("./ort.wasm.bundle.min.mjs");
    loaded.env.wasm.numThreads = 1; // more need headers that a server of files does not send
    loaded.env.wasm.wasmPaths = {wasm: here("ort-wasm-simd-threaded.wasm")};
    return loaded;
  } catch {
    throw new Error("This site was built without ONNX Runtime Web. Build it again by `make docs` where npm and a network are.");
  }
}

/** The most probable class of each pixel, the first of equal ones, and its probability. */
function classesOf({data, dims}) {
  const [, count, height, width] = dims, plane = height * width;
  const labels = new Uint8Array(plane), confidence = new Float32Array(plane);
  for (let i = 0; i < plane; i++) {
    let best = 0, sum = 0;
    for (let c = 1; c < count; c++) if (data[c * plane + i] > data[best * plane + i]) best = c;
    for (let c = 0; c < count; c++) sum += Math.exp(data[c * plane + i] - data[best * plane + i]);
    labels[i] = best;
    confidence[i] = 1 / sum;
  }
  return {labels, confidence};
}

// What is shown ------------------------------------------------------------------------------------------------------

/** Show predictions, the one that counts first; nothing of none. */
function show(predictions, pictures) {
  maps.replaceChildren();
  legend.replaceChildren();
  predictions.forEach(({name, width, height, labels, confidence}, i) => {
    const colour = painted(width, height, (at) => model.target.colors[labels[at]]);
    const sure = painted(width, height, (at) => viridis(confidence[at]));
    const mean = confidence.reduce((sum, value) => sum + value, 0) / confidence.length;
    if (i === 0) {
      const below = pictures.rgb ?? pictures.depth;
      const overlay = canvasOf(below.width, below.height, (context) => {
        context.drawImage(below, 0, 0);
        context.globalAlpha = 0.55;
        context.imageSmoothingEnabled = false;
        context.drawImage(colour, 0, 0, below.width, below.height);
      });
      add(overlay, "overlay", name, `The classes over the picture${predictions.length > 1 ? ", both together" : ""}`);
      list(labels);
    }
    if (pictures[name] && predictions.length > 1) add(pictures[name], "picture", name, `${capital(NAMES[name])}, as given`);
    add(colour, "classes", name, `Classes, ${NAMES[name]}`);
    add(sure, "confidence", name, `Confidence, ${NAMES[name]}: ${(100 * mean).toFixed(0)} % on the mean`);
  });
}

function add(canvas, what, name, caption) {
  const figure = element("figure", {className: maps.childElementCount < 3 ? "lead" : ""});
  canvas.dataset.what = `${what} ${name}`;
  canvas.setAttribute("role", "img");
  canvas.ariaLabel = caption;
  figure.append(canvas, element("figcaption", {textContent: caption}));
  maps.append(figure);
}

/** The classes that were found, the largest first. */
function list(labels) {
  const counts = new Array(model.target.classes.length).fill(0);
  labels.forEach((label) => counts[label]++);
  const found = [...counts.keys()].filter((label) => counts[label]).sort((a, b) => counts[b] - counts[a]);
  for (const label of found) {
    const swatch = element("span");
    swatch.style.background = `rgb(${model.target.colors[label]})`;
    const share = (100 * counts[label]) / labels.length;
    const item = element("li");
    item.append(swatch, `${model.target.classes[label]} ${share < 1 ? "< 1" : share.toFixed(0)} %`);
    legend.append(item);
  }
}

/** Near is bright; black where nothing was measured. */
function depthPicture(found, width, height) {
  const measured = found.filter((value) => !Number.isNaN(value)).sort();
  const [near, far] = [measured[0], measured.at(-1)];
  return painted(width, height, (at) => {
    const grey = Number.isNaN(found[at]) ? 0 : 255 - (215 * (found[at] - near)) / (far - near || 1);
    return [grey, grey, grey];
  });
}

function viridis(share) {
  const at = Math.min(share, 1) * (VIRIDIS.length - 1), below = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[below].map((value, i) => value + (at - below) * (VIRIDIS[below + 1][i] - value));
}

function painted(width, height, colour) {
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) image.data.set([...colour(at), 255], 4 * at);
  return canvasOf(width, height, (context) => context.putImageData(image, 0, 0));
}

function canvasOf(width, height, draw) {
  const canvas = element("canvas", {width, height});
  draw(canvas.getContext("2d", {willReadFrequently: true}));
  return canvas;
}

function pixels(canvas) {
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
