// The page: loads the model, picks an engine, and draws what the camera sees.

import { OrbitCamera } from "./camera.js";
import { listen } from "./gestures.js";
import { loadModel } from "./model.js";
import { TryOn } from "./tryon.js";
import { WasmEngine } from "./wasm.js";
import { WebGPUEngine } from "./webgpu.js";

const element = (id) => document.getElementById(id);
const [stage, message, hint, readout] = ["stage", "message", "hint", "readout"].map(element);
const options = new URLSearchParams(location.search);
const asked = options.get("engine"); // wasm or webgpu
const budget = Number(options.get("budget") ?? 33); // milliseconds of a frame while the camera moves
const tryOn = new TryOn(element("camera"));
const SOON = 30000; // milliseconds; a GPU that is lost again within them is left alone

let model, engine, orbit, views, moving = false, msOfAPixel = 0;
let wanted = false, drawing = null, failure = null, recovering = null, lostAt = -Infinity;
let firstFrame = 0, frameTime = 0; // milliseconds: until the first frame is there; of the last frame

function say(text, isError = false) {
  message.textContent = text;
  message.hidden = !text;
  message.classList.toggle("error", isError);
}

const numbers = ({ fx, fy, cx, cy }) => [fx, fy, cx, cy];

function explain(error) {
  readout.title = `Time of the last frame; not by WebGPU: ${error.message}`;
}

// Each engine gets a canvas of its own, which keeps the kind of its first context. The old one stays until it works.
async function startEngine(withGPU = asked !== "wasm") {
  const canvas = () => element("view").cloneNode();
  let started;
  if (withGPU) {
    try {
      const [view] = views, first = [view, orbit.pose(), numbers(view.intrinsics)];
      started = await WebGPUEngine.create(canvas(), model, first, asked === "webgpu");
      started.lost.then((error) => recover(started, error));
    } catch (error) {
      if (asked === "webgpu") throw error;
      explain(error);
    }
  }
  started ??= await WasmEngine.create(canvas(), model);
  engine = started;
  element("view").replaceWith(engine.canvas);
  fit();
}

// A GPU may be lost while the device sleeps: it is tried once more.
function recover(lost, error) {
  if (lost !== engine || recovering) return;
  const again = performance.now() - lostAt < SOON;
  lostAt = performance.now();
  recovering = (async () => {
    lost.destroy();
    try {
      while (document.hidden) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
      if (again && asked === "webgpu") throw error;
      if (again) explain(error);
      await startEngine(!again);
    } catch (problem) {
      engine = null;
      fail(problem);
    }
    recovering = null;
    draw();
  })();
}

// The largest size; while the camera moves, the largest of the same field of view that is likely within the budget.
function currentView() {
  const [full] = views;
  if (!moving) return full;
  const shown = ({ pitch, width, height }) => [width * pitch, height * pitch];
  const same = views.filter((view) => shown(view).every((size, axis) => Math.abs(size - shown(full)[axis]) < view.pitch));
  return same.find(({ width, height }) => width * height * msOfAPixel < budget) ?? same[same.length - 1];
}

function fit() {
  const canvas = element("view"), [{ width, height }] = views;
  const scale = Math.min(stage.clientWidth / width, stage.clientHeight / height);
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
  tryOn.style(canvas);
}

function fail(error) {
  failure = new Error(`The picture could not be drawn: ${error.message}`);
  say(failure.message, true);
}

async function drawFrame() {
  const view = currentView(), began = performance.now();
  // A large picture is not worth waiting for once the camera moves.
  const giveUp = () => wanted && currentView() !== view;
  if (!await engine.draw(view, orbit.pose(), numbers(view.intrinsics), giveUp)) return;
  if (failure || !firstFrame) say("");
  failure = null;
  firstFrame ||= performance.now();
  const ms = frameTime = performance.now() - began;
  msOfAPixel = ms / view.width / view.height;
  readout.textContent = `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms · ${view.width} × ${view.height}\n${engine.name}`;
}

// Draw soon; while a frame is being drawn, the newest camera waits for the next one.
function draw() {
  wanted = true;
  drawing ??= (async () => {
    while (wanted) {
      await new Promise(requestAnimationFrame);
      await recovering;
      wanted = false;
      if (!engine) break;
      const drawnBy = engine;
      try {
        await drawFrame();
      } catch (error) {
        if (drawnBy.lost) recover(drawnBy, error);
        if (!recovering) fail(error);
      }
    }
    drawing = null;
  })();
  return drawing;
}

async function idle() {
  while (drawing || recovering) await (drawing ?? recovering);
}

const perSide = (pixels) => pixels / Math.max(element("view").clientWidth, element("view").clientHeight);
const perHeight = (pixels) => pixels / element("view").clientHeight;
const handlers = {
  glides: () => !tryOn.on,
  begin() {
    moving = true;
    hint.classList.add("gone");
  },
  end() {
    moving = false;
    draw();
  },
  drag(dx, dy) {
    if (tryOn.on) {
      tryOn.place(dx, dy);
      return tryOn.style(element("view"));
    }
    orbit.turn(3 * perSide(dx), 3 * perSide(dy));
    draw();
  },
  move(dx, dy) {
    if (tryOn.on) {
      orbit.turn(3 * perSide(dx), 3 * perSide(dy));
    } else {
      orbit.pan(perHeight(dx), perHeight(dy), views[0].intrinsics.fy / views[0].height);
    }
    draw();
  },
  pinch(factor) {
    if (tryOn.on) {
      tryOn.resize(factor);
      return tryOn.style(element("view"));
    }
    orbit.zoom(factor);
    draw();
  },
  twist(angle) {
    if (!tryOn.on) return;
    orbit.turn(-angle, 0);
    draw();
  },
};

// For a while; then what else is wrong.
function note(text) {
  say(text, true);
  setTimeout(() => say(failure?.message ?? "", Boolean(failure)), 5000);
}

function showTryOn() {
  const button = element("ar");
  button.setAttribute("aria-pressed", String(tryOn.on));
  button.textContent = tryOn.on ? "Leave AR" : "AR";
  showHint(tryOn.on ? "Drag to place · pinch to scale · twist to turn" : "");
  fit();
}

function leaveTryOn(why = "") {
  tryOn.stop();
  showTryOn();
  if (why) note(why);
}

async function toggleTryOn() {
  if (tryOn.on) return leaveTryOn();
  const button = element("ar");
  button.disabled = true;
  try {
    await tryOn.start(() => leaveTryOn("The camera has stopped."));
    showTryOn();
  } catch (error) {
    note(`No camera: ${error.message}`);
  }
  button.disabled = false;
}

function resumeTryOn() {
  if (document.hidden || !tryOn.on) return;
  tryOn.play().catch((error) => leaveTryOn(`The camera has stopped: ${error.message}`));
}

// What is on the stage, as a canvas.
async function compose() {
  await idle();
  const picture = await engine.snapshot();
  return tryOn.on ? tryOn.compose(picture, element("view"), stage) : picture;
}

async function save() {
  const composed = await compose();
  const blob = await new Promise((resolve) => composed.toBlob(resolve, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = tryOn.on ? "try-on.png" : "picture.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function showHint(text) {
  hint.textContent = text;
  hint.hidden = !text;
  hint.classList.remove("gone");
}

// Beside the page, also while its files come from another folder, as they do offline.
async function keepOffline() {
  await navigator.serviceWorker?.register(new URL("sw.js", location.href));
}

async function start() {
  model = await loadModel((share) => say(`Loading ${Math.round(100 * share)} %`));
  const { manifest, network } = model;
  views = [...manifest.views].sort((a, b) => b.width * b.height - a.width * a.height);
  orbit = new OrbitCamera(manifest);
  say("Starting");
  await startEngine();
  draw();
  await idle();
  if (failure) throw failure;
  element("ar").hidden = !network.alpha;
  document.querySelector("nav").hidden = false;
  const touch = matchMedia("(pointer: coarse)").matches;
  showHint(touch ? "Drag to turn · pinch to zoom · two fingers to move" : "Drag to turn · scroll to zoom · right button to move");
  listen(stage, handlers);
  new ResizeObserver(fit).observe(stage);
  element("reset").addEventListener("click", () => { orbit.reset(); tryOn.home(); fit(); draw(); });
  element("ar").addEventListener("click", toggleTryOn);
  element("save").addEventListener("click", save);
  document.addEventListener("visibilitychange", resumeTryOn);
  if (!asked) keepOffline().catch(() => {});
}

// A view's picture as 16-bit numbers (height, width, channels), in base64: what the export is proven with.
async function picture(name, pose, intrinsics) {
  const view = views.find((candidate) => candidate.function === name);
  await idle();
  const values = await engine.picture(view, pose, intrinsics);
  const rounded = Uint16Array.from(values, (value) => Math.round(65535 * value));
  const url = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(new Blob([rounded]));
  });
  const { height, width } = view;
  return { data: url.slice(url.indexOf(",") + 1), height, width, channels: values.length / height / width };
}

const ready = start();
ready.catch((error) => say(error.message, true));

// For the export's proof, tests and measurements.
window.mobiler2l = {
  ready,
  picture,
  compose,
  tryOn,
  engine: () => engine.name,
  firstFrame: () => firstFrame,
  frameTime: () => frameTime,
  camera: () => orbit,
  idle,
  hasWebGPU: async () => Boolean(await navigator.gpu?.requestAdapter()),
};
