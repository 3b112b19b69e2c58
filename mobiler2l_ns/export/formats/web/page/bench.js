// ?bench: how fast this device draws, at each size and by each engine, and how it keeps that up while it grows warm.

import { Path } from "./tour.js";
import { WasmEngine } from "./wasm.js";
import { WebGPUEngine } from "./webgpu.js";

const HEAT = 60; // seconds
const EACH = 4; // seconds at most that a size is measured for
const LEAST = 3; // frames, however long they take
const WINDOWS = 12; // of the heat
const pause = () => new Promise((done) => setTimeout(done));
const round = (ms) => Number(ms.toFixed(2));

function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

export const benchSeconds = (options) => (options.has("bench") ? Number(options.get("bench")) || HEAT : 0);

// Times of frames, one after another from a path of the camera, for a while; each from being asked for to being done.
async function frames(engine, view, poseAt, seconds) {
  const { fx, fy, cx, cy } = view.intrinsics, times = [], began = performance.now();
  const draw = (i) => engine.draw(view, poseAt(i / 240), [fx, fy, cx, cy], () => false);
  for (let i = 0; times.length < LEAST || performance.now() - began < 1000 * seconds; i++) {
    const asked = performance.now();
    await draw(i);
    const done = performance.now();
    times.push({ at: (done - began) / 1000, ms: done - asked });
    await pause();
  }
  return times;
}

async function measure(engine, view, poseAt, seconds) {
  await frames(engine, view, poseAt, 0); // the first ones compile and fetch
  const times = (await frames(engine, view, poseAt, seconds)).map(({ ms }) => ms);
  const { width, height, pitch } = view;
  return {
    width, height, pitch, frames: times.length,
    median_ms: round(quantile(times, 0.5)), p95_ms: round(quantile(times, 0.95)),
  };
}

async function heat(engine, name, view, poseAt, seconds) {
  const times = await frames(engine, view, poseAt, seconds), length = seconds / WINDOWS, windows = [];
  for (let i = 0; i < WINDOWS; i++) {
    const inside = times.filter(({ at }) => Math.min(WINDOWS - 1, Math.floor(at / length)) === i).map(({ ms }) => ms);
    if (inside.length) windows.push({ from_s: round(i * length), frames: inside.length, median_ms: round(quantile(inside, 0.5)) });
  }
  const slowdown = round(windows[windows.length - 1].median_ms / windows[0].median_ms);
  return { engine: name, width: view.width, height: view.height, seconds, windows, slowdown };
}

// What can be known of the device; nothing else of whoever holds it.
async function device() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null), about = adapter?.info;
  return {
    browser: navigator.userAgent,
    cores: navigator.hardwareConcurrency ?? null,
    memory_gib: navigator.deviceMemory ?? null,
    screen: [screen.width, screen.height, devicePixelRatio],
    gpu: about ? { vendor: about.vendor, architecture: about.architecture, description: about.description } : null,
    half_precision: adapter?.features.has("shader-f16") ?? false,
  };
}

// The engines to measure: functions that make them, by name. A software device counts only where it is asked for.
function enginesOf(model, first, asked) {
  const canvas = () => document.createElement("canvas"), engines = {};
  if (navigator.gpu && asked !== "wasm") engines.WebGPU = () => WebGPUEngine.create(canvas(), model, first, asked === "webgpu");
  if (asked !== "webgpu") engines.WebAssembly = () => WasmEngine.create(canvas(), model);
  return engines;
}

// Poses all around, over and over.
function tourOf({ poses }, orbit) {
  if (!poses?.turntable) {
    return () => {
      orbit.azimuth += 0.02;
      orbit.limit();
      return orbit.pose();
    };
  }
  const path = new Path(poses.turntable);
  return (share) => path.at(path.closed ? share : Math.abs(1 - 2 * (share % 1)));
}

// Measure, show the result as text to copy, and return it.
//   asked: the engine that was asked for; say(text): how far it is.
export async function measureDevice({ model, views, orbit, asked, seconds, say }) {
  const { fx, fy, cx, cy } = views[0].intrinsics, first = [views[0], orbit.pose(), [fx, fy, cx, cy]];
  const start = enginesOf(model, first, asked), poseAt = tourOf(model.manifest, orbit);
  const result = await bench({ model, start, views, poseAt, seconds, say });
  say("");
  showNumbers(result);
  return result;
}

async function bench({ model, start, views, poseAt, seconds, say }) {
  const { manifest, network } = model, engines = [];
  let hidden = document.hidden, best = null;
  const hide = () => { hidden ||= document.hidden; };
  document.addEventListener("visibilitychange", hide);
  for (const [kind, make] of Object.entries(start)) {
    say(`Measuring ${kind}`);
    let engine = null;
    try {
      engine = await make();
      const sizes = [];
      for (const view of views) {
        say(`Measuring ${kind}, ${view.width} × ${view.height}`);
        sizes.push(await measure(engine, view, poseAt, Math.min(EACH, seconds)));
      }
      engines.push({ kind, name: engine.name, sizes });
      if (!best || sizes[0].median_ms < best.ms) best = { kind, make, ms: sizes[0].median_ms };
    } catch (error) {
      engines.push({ kind, error: error.message });
    }
    engine?.destroy();
  }
  let warm = null;
  if (best) {
    say(`Measuring ${best.kind} for ${seconds} seconds, while the device grows warm`);
    const engine = await best.make();
    warm = await heat(engine, best.kind, views[0], poseAt, seconds);
    engine.destroy();
  }
  document.removeEventListener("visibilitychange", hide);
  return {
    measured: "mobiler2l web page", date: new Date().toISOString(), device: await device(),
    package: {
      student_sha256: manifest.student_sha256, generator: network.generator ?? null, precision: network.precision,
      stride: manifest.stride, alpha: network.alpha, volume: Boolean(network.volume),
    },
    engines, heat: warm, hidden,
  };
}

// As text to copy.
function showNumbers(result) {
  const [section, text, button] = ["bench", "numbers", "copy"].map((id) => document.getElementById(id));
  text.value = JSON.stringify(result, null, 1);
  section.hidden = false;
  button.addEventListener("click", async () => {
    text.select();
    try {
      await navigator.clipboard.writeText(text.value);
    } catch {
      document.execCommand("copy");
    }
    button.textContent = "Copied";
  });
}
