// The page: loads the model, picks an engine, and draws what the camera sees.

import { benchSeconds, measureDevice } from "./bench.js";
import { cameraOf } from "./camera.js";
import { createEngine, exactPicture } from "./engines.js";
import { listen } from "./gestures.js";
import { download, explain, fadeHint, note, say, showHint, showTime } from "./messages.js";
import { loadModel } from "./model.js";
import { film, filmType, Path } from "./tour.js";
import { TryOn, TryOnButton } from "./tryon.js";

const element = (id) => document.getElementById(id);
const [stage, balls] = ["stage", "balls"].map(element);
const options = new URLSearchParams(location.search);
const asked = options.get("engine"); // wasm or webgpu
const budget = Number(options.get("budget") ?? 33); // milliseconds of a frame while the camera moves
const tryOn = new TryOn(element("camera"));
const tryOnButton = new TryOnButton(element("ar"), tryOn, fit, (text) => note(text, () => failure));
const SOON = 30000; // milliseconds; a GPU that is lost again within them is left alone

let model, engine, orbit, views, placed = null, moving = false, msOfAPixel = 0;
let wanted = false, drawing = null, failure = null, recovering = null, lostAt = -Infinity;
let posed = null, playing = null, filming = null, held = 0, settling = null; // an exact pose that is shown; a path, since when
let firstFrame = 0, frameTime = 0; // milliseconds: until the first frame is there; of the last frame

const numbers = ({ fx, fy, cx, cy }) => [fx, fy, cx, cy];

// The old engine's canvas stays until the new one works.
async function startEngine(withGPU = asked !== "wasm") {
  const [view] = views, first = [view, orbit.pose(), numbers(view.intrinsics)];
  const started = await createEngine(() => element("view").cloneNode(), model, first, asked, withGPU);
  started.lost?.then((error) => recover(started, error));
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
  for (const { style } of [canvas, balls]) {
    style.width = `${width * scale}px`;
    style.height = `${height * scale}px`;
  }
  move();
}

// Where the picture is on the stage.
function move() {
  tryOn.style(element("view"));
  tryOn.style(balls);
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
  await placed?.drawn(engine, view, pose, numbers(view.intrinsics));
  if (failure || !firstFrame) say("");
  failure = null;
  firstFrame ||= performance.now();
  const ms = frameTime = performance.now() - began;
  msOfAPixel = ms / view.width / view.height;
  if (playing) wanted = true;
  showTime(ms, view, engine);
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
  fadeHint();
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
    fadeHint();
  },
  end() {
    settle();
  },
  drag(dx, dy) {
    if (tryOn.on) {
      tryOn.place(dx, dy);
      return move();
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
      return move();
    }
    orbit.zoom(factor);
    draw();
  },
  async tap(x, y) {
    if (!placed?.on) return;
    await idle();
    await placed.tap(x, y, element("view").getBoundingClientRect()).catch((error) => note(error.message, () => failure));
  },
  twist(angle) {
    if (!tryOn.on) return;
    orbit.turn(-angle, 0);
    draw();
  },
};

// The picture and what is placed there, as a canvas.
async function snapshot() {
  const picture = await engine.snapshot();
  return placed ? placed.over(picture) : picture;
}

// What is on the stage, as a canvas.
async function compose() {
  stopPlaying();
  draw();
  await idle();
  const picture = await snapshot();
  return tryOn.on ? tryOn.compose(picture, element("view"), stage) : picture;
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
        return snapshot();
      },
    });
    if (blob) download(blob, `turntable.${type.startsWith("video/mp4") ? "mp4" : "webm"}`);
  } catch (error) {
    note(`No video: ${error.message}`, () => failure);
  }
  filming = null;
  element("video").textContent = "Video";
  showHint("");
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
  if (network.volume && !seconds) {
    const { Placed } = await import("./place.js");
    placed = new Placed(balls, model, element("place"));
  }
  await startEngine();
  draw();
  await idle();
  if (failure) throw failure;
  if (seconds) return void (benchmark = await measureDevice({ model, views, orbit, asked, seconds, say }));
  offerPoses(manifest.poses);
  element("ar").hidden = !network.alpha;
  element("place").hidden = !placed;
  document.querySelector("nav").hidden = false;
  const touch = matchMedia("(pointer: coarse)").matches;
  showHint(touch ? "Drag to turn · pinch to zoom · two fingers to move" : "Drag to turn · scroll to zoom · right button to move");
  listen(stage, handlers);
  new ResizeObserver(fit).observe(stage);
  element("reset").addEventListener("click", reset);
  element("save").addEventListener("click", save);
  if (!asked) keepOffline().catch(() => {});
}

async function picture(name, pose, intrinsics) {
  const view = views.find((candidate) => candidate.function === name);
  await idle();
  return exactPicture(engine, view, pose, intrinsics);
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
  placed: () => placed,
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
