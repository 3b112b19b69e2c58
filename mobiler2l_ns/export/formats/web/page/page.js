// The page: loads the model, picks an engine, and draws what the camera sees.

import { benchSeconds, measureDevice } from "./bench.js";
import { cameraOf } from "./camera.js";
import { listen } from "./gestures.js";
import { loadModel } from "./model.js";
import { film, filmType, Path } from "./tour.js";
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
let posed = null, playing = null, filming = null, held = 0, settling = null; // an exact pose that is shown; a path, since when
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

function shownPose() {
  if (playing) {
    const share = (performance.now() - playing.began) / 1000 / playing.path.seconds;
    posed = playing.path.at(share);
    if (share >= 1 && !playing.path.closed) stopPlaying();
  }
  return posed ?? orbit.pose();
}

async function drawFrame() {
  const view = currentView(), pose = shownPose(), began = performance.now();
  // A large picture is not worth waiting for once the camera moves.
  const giveUp = () => wanted && currentView() !== view;
  if (!await engine.draw(view, pose, numbers(view.intrinsics), giveUp)) return;
  if (failure || !firstFrame) say("");
  failure = null;
  firstFrame ||= performance.now();
  const ms = frameTime = performance.now() - began;
  msOfAPixel = ms / view.width / view.height;
  if (playing) wanted = true;
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
  while (settling || drawing || recovering) await (settling ?? drawing ?? recovering);
}

// The hand takes the camera from where it is.
function grasp() {
  held++;
  stopPlaying();
  if (posed) orbit.take(posed);
  posed = null;
}

// What the hand has left goes back to where the student is good, and the address becomes a link to it.
function settle() {
  const mine = held, from = orbit.state(), to = orbit.rest(), began = performance.now();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || JSON.stringify(from) === JSON.stringify(to);
  const current = settling = (async () => {
    await null; // until it has its name
    for (let share = 0; share < 1 && held === mine;) {
      share = still ? 1 : Math.min(1, (performance.now() - began) / 250);
      orbit.approach(from, to, 1 - (1 - share) ** 3);
      if (share < 1) await Promise.all([draw(), new Promise(requestAnimationFrame)]);
    }
    if (settling === current) settling = null;
    if (held !== mine) return;
    moving = false;
    draw();
    link(orbit.code());
  })();
}

const link = (view) => history.replaceState(null, "", view ? `#view=${encodeURIComponent(view)}` : location.pathname + location.search);

function stopPlaying() {
  if (!playing) return;
  playing = null;
  moving = false;
  element("play").textContent = "Play";
}

function play() {
  if (playing) {
    grasp();
    return settle();
  }
  held++;
  playing = { path: new Path(model.manifest.poses.turntable), began: performance.now() };
  moving = true;
  element("play").textContent = "Pause";
  hint.classList.add("gone");
  link("turntable");
  draw();
}

function showView(name) {
  held++;
  stopPlaying();
  posed = model.manifest.poses.views[name];
  orbit.take(posed);
  draw();
}

// What the address asks for; anything else in it is left alone.
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1)).get("view"), { views: named, turntable } = model.manifest.poses ?? {};
  if (!asked || filming) return;
  if (named && Object.hasOwn(named, asked)) return showView(asked);
  if (asked === "turntable" && turntable) return playing || play();
  grasp();
  if (orbit.goTo(asked)) draw();
}

const perSide = (pixels) => pixels / Math.max(element("view").clientWidth, element("view").clientHeight);
const perHeight = (pixels) => pixels / element("view").clientHeight;
const handlers = {
  glides: () => !tryOn.on,
  begin() {
    grasp();
    moving = true;
    hint.classList.add("gone");
  },
  end() {
    settle();
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
  stopPlaying();
  draw();
  await idle();
  const picture = await engine.snapshot();
  return tryOn.on ? tryOn.compose(picture, element("view"), stage) : picture;
}

function download(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
}

async function save() {
  const composed = await compose();
  const blob = await new Promise((resolve) => composed.toBlob(resolve, "image/png"));
  download(blob, tryOn.on ? "try-on.png" : "picture.png");
}

// The turntable as a film, over the page's own colour. Whatever takes the camera meanwhile ends it.
async function saveFilm() {
  if (filming) {
    held++;
    return;
  }
  grasp();
  const type = filmType(), mine = held;
  filming = true;
  element("video").textContent = "Stop";
  try {
    const blob = await film(new Path(model.manifest.poses.turntable), {
      type, ms: frameTime, background: getComputedStyle(document.body).backgroundColor,
      stopped: () => held !== mine,
      progress: (share) => showHint(`Drawing the video: ${Math.round(100 * share)} %`),
      async drawn(pose) {
        posed = pose;
        draw();
        await idle();
        if (failure) throw failure;
        return engine.snapshot();
      },
    });
    if (blob) download(blob, `turntable.${type.startsWith("video/mp4") ? "mp4" : "webm"}`);
  } catch (error) {
    note(`No video: ${error.message}`);
  }
  filming = null;
  element("video").textContent = "Video";
  showHint("");
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

function reset() {
  grasp();
  orbit.reset();
  tryOn.home();
  fit();
  link("");
  draw();
}

function offerPoses({ views: named, turntable } = { views: {} }) {
  const list = element("views");
  for (const name of Object.keys(named)) list.add(new Option(name));
  list.hidden = list.length < 2;
  list.addEventListener("change", () => {
    showView(list.value);
    link(list.value);
    list.selectedIndex = 0;
  });
  element("play").hidden = !turntable;
  element("play").addEventListener("click", play);
  element("video").hidden = !turntable || !filmType();
  element("video").addEventListener("click", saveFilm);
  addEventListener("hashchange", follow);
  follow();
}

async function start() {
  model = await loadModel((share) => say(`Loading ${Math.round(100 * share)} %`));
  const { manifest, network } = model;
  views = [...manifest.views].sort((a, b) => b.width * b.height - a.width * a.height);
  orbit = cameraOf(manifest);
  say("Starting");
  const seconds = benchSeconds(options);
  await startEngine();
  draw();
  await idle();
  if (failure) throw failure;
  if (seconds) return void (benchmark = await measureDevice({ model, views, orbit, asked, seconds, say }));
  offerPoses(manifest.poses);
  element("ar").hidden = !network.alpha;
  document.querySelector("nav").hidden = false;
  const touch = matchMedia("(pointer: coarse)").matches;
  showHint(touch ? "Drag to turn · pinch to zoom · two fingers to move" : "Drag to turn · scroll to zoom · right button to move");
  listen(stage, handlers);
  new ResizeObserver(fit).observe(stage);
  element("reset").addEventListener("click", reset);
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

let benchmark = null;
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
  shownPose,
  playing: () => Boolean(playing),
  benchmark: () => benchmark,
  idle,
  hasWebGPU: async () => Boolean(await navigator.gpu?.requestAdapter()),
};
