// The WebGPU engine: rays, encoding and network in compute shaders, in half precision where the device has it and the
// weights are in it.

import { fromHalf, get } from "./model.js";

const ACTIVATIONS = { none: 0, relu: 1, gelu: 2, sigmoid: 3 };
const MOST_GROUPS = 32768; // along one axis of a dispatch

async function requestDevice(network, software) {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new Error("no WebGPU here");
  if (adapter.info?.isFallbackAdapter && !software) throw new Error("WebGPU in software is slower than WebAssembly");
  const half = network.precision === "fp16" && adapter.features.has("shader-f16");
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredFeatures: half ? ["shader-f16"] : [],
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
  });
  return { device, half };
}

// The 64 threads of a tile: those along the output channels, four for each, and the others along the pixels.
const across = (outputs) => (outputs >= 32 ? 8 : outputs >= 16 ? 4 : 2);
const down = (outputs) => 64 / across(outputs);

const SCOPES = ["out-of-memory", "validation", "internal"];

// The result of work. Devices throw nothing by themselves: what goes wrong with all that is asked of them before work
// first waits is thrown here.
async function checked(device, work) {
  for (const kind of SCOPES) device.pushErrorScope(kind);
  const [result, ...errors] = await Promise.all([work(), ...SCOPES.map(() => device.popErrorScope())]);
  const error = errors.find(Boolean);
  if (error) throw new Error(error.message || "the GPU is out of memory");
  return result;
}

export class WebGPUEngine {
  // first: the picture to try it with, as for draw(); software: take a device without a GPU behind it too.
  static async create(canvas, model, first, software = false) {
    const { device, half } = await requestDevice(model.network, software);
    const engine = new WebGPUEngine(canvas, device, half, model);
    try {
      const source = await (await get("network.wgsl")).text();
      await checked(device, () => engine.load(source, model.weights));
      await engine.draw(...first);
    } catch (error) {
      engine.destroy();
      throw error;
    }
    return engine;
  }

  constructor(canvas, device, half, { manifest, network }) {
    Object.assign(this, { canvas, device, half, manifest, network, views: new Map() });
    this.name = half ? "WebGPU, half precision" : "WebGPU";
    // The error after which nothing can be drawn any more; destroy() is one.
    this.lost = new Promise((resolve) => {
      const lose = (reason) => {
        this.gone ??= new Error(reason || "the GPU was lost");
        resolve(this.gone);
      };
      device.lost.then(({ message }) => lose(message));
      device.addEventListener("uncapturederror", ({ error }) => lose(error.message));
    });
  }

  destroy() {
    this.device.destroy();
  }

  async load(source, weights) {
    const { device, network, manifest, half } = this;
    const { STORAGE, COPY_DST, UNIFORM } = GPUBufferUsage;
    const values = network.precision === "fp32" || half ? weights : fromHalf(new Uint16Array(weights.buffer));
    this.weights = this.filled(values, STORAGE);
    this.places = this.filled(new Float32Array(manifest.points.places), STORAGE);
    this.camera = device.createBuffer({ size: 36 * 4, usage: UNIFORM | COPY_DST });
    const prefix = half ? "enable f16;\nalias h = f16;\n" : "alias h = f32;\n";
    const shaders = new Map();
    for (const { outputs } of network.operations) {
      if (outputs && !shaders.has(across(outputs))) {
        const threads = `const ACROSS = ${across(outputs)}u;\nconst DOWN = ${down(outputs)}u;\n`;
        shaders.set(across(outputs), device.createShaderModule({ code: prefix + threads + source }));
      }
    }
    const [any] = shaders.values();
    const pipeline = (module, entryPoint) =>
      device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint } });
    this.format = navigator.gpu.getPreferredCanvasFormat();
    this.context = this.canvas.getContext("webgpu");
    this.context.configure({ device, format: this.format, alphaMode: "premultiplied" });
    const show = device.createRenderPipelineAsync({
      layout: "auto",
      vertex: { module: any, entryPoint: "cover" },
      fragment: { module: any, entryPoint: "show", targets: [{ format: this.format }] },
    });
    const names = ["encode", "sum", "show"], threads = [...shaders.keys()];
    const made = [pipeline(any, "encode"), pipeline(any, "sum"), show];
    const convolve = [...shaders.values()].map((module) => pipeline(module, "convolve"));
    const ready = await Promise.all([...made, ...convolve]);
    this.pipelines = Object.fromEntries(names.map((name, i) => [name, ready[i]]));
    this.convolve = new Map(threads.map((count, i) => [count, ready[names.length + i]]));
    if (!network.volume) return;
    const [threadsOfAny] = threads, code = `${prefix}const ACROSS = ${threadsOfAny}u;\nconst DOWN = ${64 / threadsOfAny}u;\n${source}`;
    const { VolumeShaders } = await import("./volume_shaders.js");
    this.volume = await VolumeShaders.create(this, code);
  }

  filled(data, usage) {
    const buffer = this.device.createBuffer({ size: data.byteLength, usage: usage | GPUBufferUsage.COPY_DST });
    this.device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }

  group(pipeline, resources) {
    const entries = Object.entries(resources).map(([binding, buffer]) => ({ binding: +binding, resource: { buffer } }));
    return this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  }

  // Buffers and steps for pictures of a size, made when the first is drawn.
  prepare(view) {
    if (!this.views.has(view)) this.views.set(view, checked(this.device, async () => this.build(view)));
    return this.views.get(view);
  }

  build(view) {
    const { device, network, pipelines } = this;
    const { STORAGE, UNIFORM, COPY_SRC } = GPUBufferUsage;
    const bytes = this.half ? 2 : 4, rays = view.rows * view.columns;
    const sizes = network.registers.map(([channels, scale]) => bytes * channels * scale * scale * rays);
    if (Math.max(...sizes) > device.limits.maxStorageBufferBindingSize) {
      throw new Error("the picture is too large for this GPU");
    }
    const registers = sizes.map((size) => device.createBuffer({ size, usage: STORAGE | COPY_SRC }));
    const nothing = device.createBuffer({ size: 16, usage: STORAGE });
    const steps = [{
      pipeline: pipelines.encode,
      group: this.group(pipelines.encode, { 0: this.camera, 1: this.places, 2: registers[0] }),
      groups: [Math.ceil(rays / 64), 3 * this.manifest.num_points + 1, 1],
    }];
    let surfaces = null;
    const spread = (count) => [Math.min(count, MOST_GROUPS), Math.ceil(count / MOST_GROUPS)];
    for (const operation of network.operations) {
      const [source, target] = [registers[operation.from], registers[operation.to]];
      if (operation.kind === "volume") {
        const looked = this.volume.steps(view, target, spread);
        steps.push(...looked.steps);
        surfaces = looked.surfaces;
        continue;
      }
      const add = operation.add === null ? nothing : registers[operation.add];
      if (operation.kind === "sum") {
        const count = sizes[operation.to] / bytes / 4;
        const numbers = this.filled(new Uint32Array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count, 0]), UNIFORM);
        const group = this.group(pipelines.sum, { 3: numbers, 4: source, 6: add, 7: target });
        steps.push({ pipeline: pipelines.sum, group, groups: [...spread(Math.ceil(count / 64)), 1] });
        continue;
      }
      const { inputs, outputs, stride, taps, patch, scale } = operation;
      const [rows, columns] = [view.rows * scale, view.columns * scale];
      const numbers = this.filled(new Uint32Array([
        inputs, outputs, rows, columns, stride, taps, ACTIVATIONS[operation.activation], operation.add === null ? 0 : 1,
        operation.weights / 4, operation.bias / 4, 0, patch,
      ]), UNIFORM);
      const pipeline = this.convolve.get(across(outputs));
      const group = this.group(pipeline, { 3: numbers, 4: source, 5: this.weights, 6: add, 7: target });
      const pixels = 4 * down(outputs);
      const tiles = Math.ceil(outputs / 4 / across(outputs)) * stride * stride;
      steps.push({ pipeline, group, groups: [...spread(Math.ceil(rows * columns / pixels)), tiles] });
    }
    const [channels, scale] = network.registers[network.picture];
    const picture = registers[network.picture];
    const shape = this.filled(new Uint32Array([view.columns * scale, channels / 4, network.alpha ? 1 : 0, 0]), UNIFORM);
    const show = this.group(pipelines.show, { 8: picture, 9: shape });
    return { steps, show, picture, surfaces, size: sizes[network.picture], channels, across: view.columns * scale };
  }

  pointCamera(view, pose, intrinsics) {
    const { manifest } = this, { points } = manifest, sphere = points.in === "sphere";
    const data = new ArrayBuffer(36 * 4);
    const floats = new Float32Array(data), integers = new Uint32Array(data);
    for (let column = 0; column < 4; column++) floats.set(pose.map((row) => row[column]), 4 * column);
    floats.set(intrinsics, 16);
    floats.set(sphere ? [...points.centre, points.radius] : [0, 0, 0, 1], 20);
    floats.set([manifest.stride, Math.log2(view.pitch), points.shortest_half_chord], 24);
    integers.set([view.rows, view.columns, manifest.num_points, manifest.num_frequencies], 28);
    integers.set([sphere, manifest.contracted, this.network.registers[0][0], manifest.pitches.length > 1].map(Number), 32);
    this.device.queue.writeBuffer(this.camera, 0, data);
  }

  compute(encoder, { steps }) {
    const pass = encoder.beginComputePass();
    for (const { pipeline, group, groups } of steps) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...groups);
    }
    pass.end();
  }

  show(encoder, { show }, texture) {
    const attachment = { view: texture.createView(), loadOp: "clear", storeOp: "store" };
    const pass = encoder.beginRenderPass({ colorAttachments: [attachment] });
    pass.setPipeline(this.pipelines.show);
    pass.setBindGroup(0, show);
    pass.draw(3);
    pass.end();
  }

  // Throws where nothing was drawn.
  async draw(view, pose, intrinsics) {
    const { canvas, device } = this, ready = await this.prepare(view);
    await checked(device, async () => {
      if (canvas.width !== view.width || canvas.height !== view.height) {
        canvas.width = view.width;
        canvas.height = view.height;
      }
      this.pointCamera(view, pose, intrinsics);
      const encoder = device.createCommandEncoder();
      this.compute(encoder, ready);
      this.show(encoder, ready, this.context.getCurrentTexture());
      device.queue.submit([encoder.finish()]);
      this.shown = [ready, canvas.width, canvas.height];
      await device.queue.onSubmittedWorkDone();
    });
    if (this.gone) throw this.gone;
    return true;
  }

  // The last picture as a canvas to draw with. WebGPU's own can be copied from only in the task that drew it.
  async snapshot() {
    const { device } = this, [ready, width, height] = this.shown;
    const { RENDER_ATTACHMENT, COPY_SRC } = GPUTextureUsage;
    const texture = device.createTexture({ size: [width, height], format: this.format, usage: RENDER_ATTACHMENT | COPY_SRC });
    const bytesPerRow = 256 * Math.ceil(width / 64); // a multiple of 256
    const { COPY_DST, MAP_READ } = GPUBufferUsage;
    const copy = device.createBuffer({ size: bytesPerRow * height, usage: COPY_DST | MAP_READ });
    const encoder = device.createCommandEncoder();
    this.show(encoder, ready, texture);
    encoder.copyTextureToBuffer({ texture }, { buffer: copy, bytesPerRow }, [width, height]);
    device.queue.submit([encoder.finish()]);
    await copy.mapAsync(GPUMapMode.READ);
    const bytes = new Uint8Array(copy.getMappedRange());
    const image = new ImageData(width, height);
    const order = this.format.startsWith("bgra") ? [2, 1, 0] : [0, 1, 2];
    for (let y = 0, to = 0; y < height; y++) {
      for (let x = 0; x < width; x++, to += 4) {
        const at = y * bytesPerRow + 4 * x, alpha = bytes[at + 3];
        for (let c = 0; c < 3; c++) image.data[to + c] = 255 * bytes[at + order[c]] / Math.max(alpha, 1);
        image.data[to + 3] = alpha;
      }
    }
    copy.destroy();
    texture.destroy();
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // What a buffer holds after some commands.
  async read(source, size, encode = () => {}) {
    const { device } = this;
    const copy = await checked(device, async () => {
      const buffer = device.createBuffer({ size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
      const encoder = device.createCommandEncoder();
      encode(encoder);
      encoder.copyBufferToBuffer(source, 0, buffer, 0, size);
      device.queue.submit([encoder.finish()]);
      await buffer.mapAsync(GPUMapMode.READ);
      return buffer;
    });
    const bytes = copy.getMappedRange().slice(0);
    copy.destroy();
    return bytes;
  }

  // Where the last picture's surfaces are: for each of the volume's rays its place t; null without a volume.
  async surfaces() {
    const { surfaces } = this.shown?.[0] ?? {};
    return surfaces ? new Float32Array(await this.read(surfaces, surfaces.size)) : null;
  }

  // height x width x channels, 0..1
  async picture(view, pose, intrinsics) {
    const ready = await this.prepare(view);
    const bytes = await this.read(ready.picture, ready.size, (encoder) => {
      this.pointCamera(view, pose, intrinsics);
      this.compute(encoder, ready);
    });
    const values = this.half ? fromHalf(new Uint16Array(bytes)) : new Float32Array(bytes);
    const colours = this.network.alpha ? 4 : 3;
    const out = new Float32Array(view.height * view.width * colours);
    for (let y = 0, to = 0; y < view.height; y++) {
      for (let x = 0; x < view.width; x++) {
        const at = (y * ready.across + x) * ready.channels;
        for (let c = 0; c < colours; c++) out[to++] = values[at + c];
      }
    }
    return out;
  }
}
