// Which engine draws: WebGPU where the device has it, WebAssembly elsewhere.

import { explain } from "./messages.js";
import { WasmEngine } from "./wasm.js";
import { WebGPUEngine } from "./webgpu.js";

// canvas(): a new canvas, which each engine that is tried gets one of: it keeps the kind of its first context. first: the
// picture to try WebGPU with; asked: wasm or webgpu, or null for whichever there is.
export async function createEngine(canvas, model, first, asked, withGPU) {
  if (withGPU) {
    try {
      return await WebGPUEngine.create(canvas(), model, first, asked === "webgpu");
    } catch (error) {
      if (asked === "webgpu") throw error;
      explain(error);
    }
  }
  return WasmEngine.create(canvas(), model);
}

// A view's picture as 16-bit numbers (height, width, channels), in base64: what the export is proven with.
export async function exactPicture(engine, view, pose, intrinsics) {
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
