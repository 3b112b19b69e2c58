// The student's volume by WebGPU: volume.wgsl, made for what network.json says of the volume.

import { get } from "./model.js";

// What volume.wgsl calls its numbers.
function constants({ edges, points, density, scales, shifts, channels, levels, hidden, values, ...volume }) {
  const whole = {
    BINS: edges.length - 1,
    POINTS: points,
    CELLS: density.cells,
    DENSITY: density.values,
    QUADS: channels / 4,
    LEVELS: levels.length,
    FEATURES: volume.features,
    HIDDEN: hidden.outputs / 4,
    HIDDEN_WEIGHTS: hidden.weights / 4,
    HIDDEN_BIAS: hidden.bias / 4,
    VALUES: Math.ceil((volume.features + 1) / 4),
    VALUES_WEIGHTS: values.weights / 4,
    VALUES_BIAS: values.bias / 4,
  };
  const parts = {
    FAINT: volume.faint, SOLID: volume.solid, STEEPEST: volume.steepest, EMPTY: volume.empty, SHOWN: volume.shown,
    NOWHERE: volume.nowhere,
  };
  const each = (numbers) => numbers.map((number) => `${number}u`).join(", ");
  return [
    ...Object.entries(whole).map(([name, number]) => `const ${name} = ${number}u;`),
    ...Object.entries(parts).map(([name, number]) => `const ${name} = f32(${number});`),
    `const SCALES = vec3f(${scales.join(", ")});`,
    `const SHIFTS = vec3f(${shifts.join(", ")});`,
    `const LEVEL_CELLS = array<u32, LEVELS>(${each(levels.map(({ cells }) => cells))});`,
    `const LEVEL_PLANES = array<u32, LEVELS>(${each(levels.map(({ planes }) => planes / 4))});`,
    "",
  ].join("\n");
}

export class VolumeShaders {
  // engine: its device, camera and weights; source: the text of network.wgsl with what stands in front of it.
  static async create(engine, source) {
    const { device, network: { volume } } = engine;
    const code = source + constants(volume) + await (await get("volume.wgsl")).text();
    const module = device.createShaderModule({ code });
    const [place, composite] = await Promise.all(["place", "composite"].map((entryPoint) =>
      device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint } })));
    const edges = engine.filled(new Float32Array(volume.edges), GPUBufferUsage.STORAGE);
    return Object.assign(new VolumeShaders(), { engine, volume, place, composite, edges });
  }

  // For pictures of a size, and where they leave the surfaces; spread: a number of workgroups along two axes.
  steps(view, target, spread) {
    const { engine, volume, place, composite, edges } = this, { camera, weights, device } = engine;
    const rays = volume.density_rays[view.function], block = volume.rays / rays;
    const [columns, rows] = [view.columns * rays, view.rows * rays];
    const grid = engine.filled(new Uint32Array([columns, rows, rays, block]), GPUBufferUsage.UNIFORM);
    const points = device.createBuffer({ size: 8 * volume.points * columns * rows, usage: GPUBufferUsage.STORAGE });
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
    const surfaces = device.createBuffer({ size: 4 * columns * rows * block * block, usage });
    const groups = (count) => [...spread(Math.ceil(count / 64)), 1];
    const steps = [
      {
        pipeline: place,
        group: engine.group(place, { 0: camera, 10: grid, 11: weights, 12: edges, 13: points }),
        groups: groups(columns * rows),
      },
      {
        pipeline: composite,
        group: engine.group(composite, { 0: camera, 5: weights, 7: target, 10: grid, 14: points, 15: surfaces }),
        groups: groups(columns * rows * block * block),
      },
    ];
    return { steps, surfaces };
  }
}
