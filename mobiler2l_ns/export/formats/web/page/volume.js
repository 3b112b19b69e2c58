// The student's volume in a worker: points are placed along coarse rays, looked up and composited along fine ones, by
// the functions of the WebAssembly module.

import { chords } from "./encoding.js";

const SEGMENT = 64; // rays that go through the functions together, so that what they leave stays in the cache
const RELU = 1;

const four = (count) => Math.ceil(count / 4) * 4;

export class Volume {
  // begin: the address of memory that it may use; all of the weights are in front of it.
  constructor(manifest, { volume, registers, operations }, memory, begin) {
    Object.assign(this, { manifest, volume, memory, begin });
    const { to } = operations.find(({ kind }) => kind === "volume");
    this.channels = registers[to][0];
    const cells = volume.density.cells;
    this.bins = begin;
    this.occupied = this.bins + 8 * (volume.edges.length - 1);
    this.scratch = Math.ceil((this.occupied + cells ** 3) / 16) * 16;
    const points = SEGMENT * volume.points, { hidden, values } = volume;
    this.features = this.scratch + 16 * Math.max(volume.edges.length, volume.points);
    this.hidden = this.features + 4 * points * hidden.inputs;
    this.values = this.hidden + 4 * points * hidden.outputs;
    this.optical = this.values + 4 * points * values.outputs;
    this.active = this.optical + 8 * points;
    this.end = this.active + SEGMENT;
  }

  // Once the memory holds all of it: the bins, and which cells of the density are not empty.
  fill() {
    const { edges, density: { cells, values } } = this.volume, { buffer } = this.memory;
    const bins = new Float32Array(buffer, this.bins, 2 * (edges.length - 1));
    for (let i = 0; i + 1 < edges.length; i++) bins.set([(edges[i] + edges[i + 1]) / 2, edges[i + 1] - edges[i]], 2 * i);
    const density = new Float32Array(buffer, 4 * values, cells ** 3);
    const occupied = new Uint8Array(buffer, this.occupied, cells ** 3).fill(0);
    for (let z = 0, at = 0; z < cells; z++) {
      for (let y = 0; y < cells; y++) {
        for (let x = 0; x < cells; x++, at++) {
          if (density[at] === 0) continue;
          // It is a corner of the eight cells before it.
          for (let corner = 0; corner < 8; corner++) {
            const [dx, dy, dz] = [corner & 1, corner >> 1 & 1, corner >> 2];
            if (x >= dx && y >= dy && z >= dz) occupied[at - dx - cells * (dy + cells * dz)] = 1;
          }
        }
      }
    }
  }

  // Addresses for rows of rays of a view, and where they end.
  layout(view, from, count) {
    const { rays, points, density_rays } = this.volume;
    const coarse = density_rays[view.function], block = rays / coarse;
    const coarseStride = 4 * four(view.columns * coarse), fineStride = 4 * four(view.columns * rays);
    const placed = from + 6 * coarseStride, fine = placed + (2 * points + 1) * coarseStride;
    const columns = fine + 6 * fineStride;
    const surfaces = columns + fineStride;
    const rows = { coarse, block, coarseStride, fineStride, placed, fine, columns, surfaces, rays: from };
    return { rows, end: surfaces + count * rays * fineStride };
  }

  // Composite the rows of rays from first on into out, an address.
  composite(kernels, { rows: at }, view, pose, intrinsics, first, rows, out) {
    const { manifest, volume, channels, memory: { buffer } } = this;
    const { rays, points, hidden, values } = volume;
    const across = view.columns * rays, coarseAcross = view.columns * at.coarse;
    const floats = (address, stride) => new Float32Array(buffer, address, 6 * stride / 4);
    const columns = new Int32Array(buffer, at.columns, at.fineStride / 4);
    for (let i = 0; i < columns.length; i++) columns[i] = 4 * Math.floor(Math.min(i, across - 1) / at.block);
    const coarse = floats(at.rays, at.coarseStride).fill(0), fine = floats(at.fine, at.fineStride).fill(0);
    new Float32Array(buffer, out, rows * rays * across * channels).fill(0);
    new Float32Array(buffer, at.surfaces, rows * rays * at.fineStride / 4).fill(volume.nowhere);
    const towards = [manifest, pose, intrinsics], begin = first * rays;
    for (let row = 0; row < rows * rays; row++) {
      if (row % at.block === 0) {
        chords(...towards, (begin + row) / at.block, coarseAcross, manifest.stride / at.coarse, coarse, at.coarseStride / 4);
        kernels.place(at.rays, at.placed, at.coarseStride, four(coarseAcross), this.bins, this.occupied, this.scratch);
      }
      chords(...towards, begin + row, across, manifest.stride / rays, fine, at.fineStride / 4);
      const end = out + (row + 1) * across * channels * 4;
      for (let left = 0; left < across; left += SEGMENT) {
        const count = Math.min(SEGMENT, four(across - left));
        const found = kernels.look_up(
          at.fine + 4 * left, at.fineStride, at.placed, at.coarseStride, at.columns + 4 * left, count, this.features,
          this.optical, this.active);
        if (!found) continue;
        const looked = 4 * points * found;
        this.map(kernels, hidden, this.features, this.hidden, looked);
        kernels.activate(this.hidden, looked * hidden.outputs, RELU);
        this.map(kernels, values, this.hidden, this.values, looked);
        const to = out + (row * across + left) * channels * 4;
        const surfaces = at.surfaces + row * at.fineStride + 4 * left;
        kernels.composite(this.values, this.optical, this.active, found, to, end, this.scratch, surfaces);
      }
    }
  }

  // Of each fine ray of some of those rows of rays, the place of what is seen.
  surfaces({ rows: at }, view, first, rows) {
    const { rays } = this.volume, across = view.columns * rays;
    const out = new Float32Array(rows * rays * across);
    for (let row = 0; row < rows * rays; row++) {
      const from = at.surfaces + (first * rays + row) * at.fineStride;
      out.set(new Float32Array(this.memory.buffer, from, across), row * across);
    }
    return out;
  }

  map(kernels, { inputs, outputs, weights, bias }, from, to, points) {
    kernels.multiply(from, 4 * inputs, 4 * weights, 4 * bias, 0, to, 4 * outputs, points, inputs, outputs);
  }
}
