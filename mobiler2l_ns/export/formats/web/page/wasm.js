// The engine for browsers without WebGPU: WebAssembly SIMD in several workers, each with a copy of the weights, so that
// any static server will do (shared memory would need its headers).

import { get } from "./model.js";

const STRIP_BYTES = 48e6; // of a worker's registers

// A worker, and the questions that it has not answered yet.
class Hand {
  constructor() {
    this.asked = 0;
    this.open = new Map();
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data: { id, answer, error } }) => {
      const { resolve, reject } = this.open.get(id);
      this.open.delete(id);
      if (error) reject(new Error(error));
      else resolve(answer);
    };
    this.worker.onerror = (event) => {
      this.broken = new Error(event.message || "worker.js could not be started.");
      for (const { reject } of this.open.values()) reject(this.broken);
    };
  }

  async ask(question, transfer = []) {
    if (this.broken) throw this.broken;
    return new Promise((resolve, reject) => {
      const id = this.asked++;
      this.open.set(id, { resolve, reject });
      this.worker.postMessage({ ...question, id }, transfer);
    });
  }
}

export class WasmEngine {
  static async create(canvas, { manifest, network, weights }) {
    const load = async (name) => new Uint8Array(await (await get(name)).arrayBuffer());
    let code = await load("kernels-fma.wasm");
    if (!WebAssembly.validate(code)) code = await load("kernels.wasm");
    if (!WebAssembly.validate(code)) throw new Error("This browser has neither WebGPU nor WebAssembly SIMD: please update it.");
    const module = await WebAssembly.compile(code);
    const engine = new WasmEngine();
    engine.canvas = canvas;
    engine.context = canvas.getContext("2d");
    engine.network = network;
    const count = Math.max(1, Math.min(8, navigator.hardwareConcurrency || 2));
    engine.hands = Array.from({ length: count }, () => new Hand());
    engine.name = `WebAssembly, ${count} worker${count > 1 ? "s" : ""}`;
    await Promise.all(engine.hands.map((hand) => {
      const copy = weights.slice().buffer;
      return hand.ask({ kind: "start", manifest, network, module, weights: copy }, [copy]);
    }));
    return engine;
  }

  // The picture in strips from top to bottom, pixels and surfaces; null where it was given up on the way.
  async strips(view, pose, intrinsics, floats, giveUp = () => false) {
    const perRow = bytesOfARay(this.network) * view.columns;
    const most = Math.max(1, Math.floor(STRIP_BYTES / perRow));
    const rounds = Math.ceil(view.rows / (most * this.hands.length));
    const count = Math.ceil(view.rows / (rounds * this.hands.length));
    const parts = [];
    let next = 0, givenUp = false;
    const work = async (hand) => {
      while (next < view.rows && !(givenUp ||= giveUp())) {
        const first = next;
        next += count;
        const part = { view, pose, intrinsics, first, count: Math.min(count, view.rows - first), floats };
        parts.push([first, await hand.ask({ kind: "strip", ...part })]);
      }
    };
    try {
      await Promise.all(this.hands.map(work));
    } finally {
      next = view.rows; // what failed is not gone on with
    }
    return givenUp ? null : parts.sort(([a], [b]) => a - b).map(([, part]) => part);
  }

  // Whether the picture was drawn; giveUp() is asked on the way.
  async draw(view, pose, intrinsics, giveUp) {
    const parts = await this.strips(view, pose, intrinsics, false, giveUp);
    if (!parts) return false;
    const { canvas } = this;
    if (canvas.width !== view.width || canvas.height !== view.height) {
      canvas.width = view.width;
      canvas.height = view.height;
    }
    this.shown = { view, parts };
    let y = 0;
    for (const { pixels } of parts) {
      const image = new ImageData(pixels, view.width);
      this.context.putImageData(image, 0, y);
      y += image.height;
    }
    return true;
  }

  destroy() {
    for (const { worker } of this.hands) worker.terminate();
  }

  // The last picture as a canvas to draw with.
  async snapshot() {
    return this.canvas;
  }

  // Where the last picture's surfaces are: for each of the volume's rays its place t; null without a volume.
  async surfaces() {
    const { volume } = this.network, { view, parts } = this.shown ?? {};
    return volume && view ? joined(parts.map(({ surfaces }) => surfaces)) : null;
  }

  // height x width x channels, 0..1
  async picture(view, pose, intrinsics) {
    const parts = await this.strips(view, pose, intrinsics, true);
    return joined(parts.map(({ pixels }) => pixels));
  }
}

function joined(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// Bytes of all registers for one ray.
function bytesOfARay({ registers }) {
  return registers.reduce((sum, [channels, scale]) => sum + 4 * channels * scale * scale, 0);
}
