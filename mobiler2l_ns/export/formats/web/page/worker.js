// One worker of the WebAssembly engine: it draws strips of the picture, whole rows of rays.

import { encode } from "./encoding.js";
import { fromHalf } from "./model.js";

const CHUNK = 64; // pixels that go through a layer together, so that they stay in the cache
const ACTIVATIONS = { none: 0, relu: 1, gelu: 2, sigmoid: 3 };

let manifest, network, memory, kernels, values, volume, zeros, registersAt;

async function start(model) {
  ({ manifest, network } = model);
  values = network.precision === "fp16" ? fromHalf(new Uint16Array(model.weights)) : new Float32Array(model.weights);
  zeros = 4 * values.length;
  const widest = Math.max(...network.registers.map(([channels]) => channels));
  registersAt = zeros + 4 * widest;
  memory = new WebAssembly.Memory({ initial: Math.ceil(registersAt / 65536) + 1 });
  new Float32Array(memory.buffer).set(values);
  values = null;
  if (network.volume) {
    const { Volume } = await import("./volume.js");
    volume = new Volume(manifest, network, memory, registersAt);
    registersAt = volume.end;
    reach(registersAt);
    volume.fill();
  }
  kernels = (await WebAssembly.instantiate(model.module, { env: { memory } })).exports;
}

// Let the memory hold all until an address.
function reach(end) {
  const missing = end - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / 65536));
}

// Addresses of the registers for a strip, from an address on.
function layout(rows, columns, at) {
  const places = network.registers.map(([channels, scale]) => {
    const place = at;
    at += 4 * channels * scale * scale * rows * columns;
    return place;
  });
  reach(at);
  return places;
}

function layer(operation, places, rows, columns) {
  const { inputs, outputs, stride, taps, patch, scale } = operation;
  const [height, width] = [rows * scale, columns * scale];
  const [from, to] = [places[operation.from], places[operation.to]];
  const added = operation.add === null ? 0 : places[operation.add];
  const kind = ACTIVATIONS[operation.activation];
  const [weights, bias] = [4 * operation.weights, 4 * operation.bias];
  const [inStep, outStep] = [4 * inputs, 4 * outputs];
  if (patch > 1) {
    // Row after row of the patches' pixels, those of a patch's row together.
    for (let y = 0; y < height; y++) {
      const out = to + y * width * outStep;
      for (let down = 0; down < patch; down++) {
        const x = from + (y * patch + down) * width * inStep, matrix = weights + 4 * down * inputs * outputs;
        kernels.multiply(x, inStep, matrix, down ? zeros : bias, down ? out : added, out, outStep, width, inputs, outputs);
      }
      if (kind) kernels.activate(out, width * outputs, kind);
    }
    return;
  }
  if (stride === 1) {
    for (let first = 0; first < height * width; first += CHUNK) {
      const count = Math.min(CHUNK, height * width - first);
      const out = to + first * outStep;
      const plus = added && added + first * outStep;
      kernels.multiply(from + first * inStep, inStep, weights, bias, plus, out, outStep, count, inputs, outputs);
      if (kind) kernels.activate(out, count * outputs, kind);
    }
    return;
  }
  // A transposed convolution: for each place in a block of outputs, the sum over its taps.
  let matrix = weights;
  for (let down = 0; down < stride; down++) {
    for (let across = 0; across < stride; across++) {
      for (let tapDown = 0; tapDown < taps; tapDown++) {
        for (let tapAcross = 0; tapAcross < taps; tapAcross++) {
          const [dy, dx] = [tapDown * (2 * down - 1), tapAcross * (2 * across - 1)];
          const [left, right] = [Math.max(0, -dx), Math.min(width, width - dx)];
          const isFirst = tapDown + tapAcross === 0;
          for (let y = Math.max(0, -dy); y < Math.min(height, height - dy); y++) {
            const x = from + ((y + dy) * width + left + dx) * inStep;
            const out = to + ((y * stride + down) * width * stride + left * stride + across) * outStep;
            const plus = isFirst ? added && added + out - to : out;
            kernels.multiply(
              x, inStep, matrix, isFirst ? bias : zeros, plus, out, stride * outStep, right - left, inputs, outputs);
          }
          matrix += 4 * inputs * outputs;
        }
      }
    }
  }
  if (kind) kernels.activate(to, height * width * stride * stride * outputs, kind);
}

// Rows of rays beyond a strip whose pixels reach into it.
function halo() {
  let rows = 0;
  for (const { stride = 1, taps = 1 } of [...network.operations].reverse()) {
    if (stride > 1) rows = rows / stride + (taps > 1 ? 1 : 0);
  }
  return Math.ceil(rows);
}

// Pixels of the strip: floats as the network gives them, or bytes for a canvas, whose colours are not premultiplied; and
// with a volume its surfaces.
function strip({ view, pose, intrinsics, first, count, floats }) {
  const from = Math.max(0, first - halo()), until = Math.min(view.rows, first + count + halo());
  const rows = until - from, columns = view.columns;
  const looking = volume?.layout(view, registersAt, rows);
  const places = layout(rows, columns, looking?.end ?? registersAt);
  const [channels] = network.registers[0];
  encode(manifest, view, pose, intrinsics, from, rows, channels, new Float32Array(memory.buffer, places[0], rows * columns * channels));
  for (const operation of network.operations) {
    if (operation.kind === "layer") {
      layer(operation, places, rows, columns);
    } else if (operation.kind === "volume") {
      volume.composite(kernels, looking, view, pose, intrinsics, from, rows, places[operation.to]);
    } else {
      const [wide, scale] = network.registers[operation.to];
      kernels.sum(places[operation.from], places[operation.add], places[operation.to], wide * scale * scale * rows * columns);
    }
  }
  const [wide, scale] = network.registers[network.picture];
  const picture = new Float32Array(memory.buffer, places[network.picture]);
  const height = Math.min((first + count) * scale, view.height) - first * scale;
  const colours = network.alpha ? 4 : 3;
  const out = floats ? new Float32Array(height * view.width * colours) : new Uint8ClampedArray(height * view.width * 4).fill(255);
  for (let y = 0, to = 0; y < height; y++) {
    let at = ((first - from) * scale + y) * columns * scale * wide;
    for (let x = 0; x < view.width; x++, at += wide) {
      if (floats) {
        for (let c = 0; c < colours; c++) out[to++] = picture[at + c];
      } else {
        const alpha = network.alpha ? picture[at + 3] : 1;
        for (let c = 0; c < 3; c++) out[to++] = 255 * picture[at + c] / Math.max(alpha, 1e-6);
        out[to++] = 255 * alpha;
      }
    }
  }
  return { pixels: out, surfaces: volume?.surfaces(looking, view, first - from, count) };
}

onmessage = async ({ data }) => {
  try {
    const answer = data.kind === "start" ? await start(data) : strip(data);
    postMessage({ id: data.id, answer }, Object.values(answer ?? {}).filter(Boolean).map(({ buffer }) => buffer));
  } catch (error) {
    postMessage({ id: data.id, error: error.message });
  }
};
