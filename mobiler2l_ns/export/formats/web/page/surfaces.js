// Where in the world the picture's surfaces are: of each of the volume's fine rays, the mean place of what it shows.

import { chords } from "./encoding.js";

export class Surfaces {
  // view, pose, intrinsics: of the picture; places: as an engine's surfaces() gives them.
  constructor({ manifest, network }, view, pose, intrinsics, places) {
    const { rays, nowhere } = network.volume;
    Object.assign(this, { manifest, pose, intrinsics, places, most: nowhere / 2 });
    [this.rows, this.columns, this.size] = [view.rows * rays, view.columns * rays, manifest.stride / rays];
    this.ray = new Float64Array(6);
  }

  // The point of the world that a fine ray ends at; null where there is nothing.
  point(row, column) {
    const inside = row >= 0 && column >= 0 && row < this.rows && column < this.columns;
    const t = inside ? this.places[row * this.columns + column] : Infinity;
    if (!(t < this.most)) return null;
    const { manifest: { points }, intrinsics: [fx, fy, cx, cy], ray } = this;
    chords(this.manifest, this.pose, [fx, fy, cx - column * this.size, cy], row, 1, this.size, ray, 1);
    const [unit, centre] = points.in === "sphere" ? [points.radius, points.centre] : [1, [0, 0, 0]];
    return centre.map((value, axis) => value + unit * (ray[axis] + t * ray[axis + 3]));
  }

  // Its depth along the optical axis; infinite where there is nothing.
  depth(row, column) {
    const point = this.point(row, column);
    if (!point) return Infinity;
    return this.pose.reduce((sum, axis, i) => sum + axis[2] * (axis[3] - point[i]), 0);
  }

  // Which way the surface faces there, a unit vector towards the camera; null at its edges.
  normal(row, column) {
    const [left, right, above, below] = [[0, -2], [0, 2], [-2, 0], [2, 0]].map(([down, across]) => this.point(row + down, column + across));
    if (!left || !right || !above || !below) return null;
    const [a, b] = [right.map((value, i) => value - left[i]), above.map((value, i) => value - below[i])];
    const normal = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    const back = this.pose.map((axis, i) => axis[3] - this.point(row, column)[i]);
    const [length, far] = [Math.hypot(...normal), Math.hypot(...back)];
    const facing = normal.reduce((sum, value, i) => sum + value * back[i], 0) / (length * far);
    return facing > 0.15 ? normal.map((value) => value / length) : null; // less is an edge between two surfaces
  }

  // The fine ray nearest to a place of the picture, in pixels.
  at(x, y) {
    return [Math.floor(y / this.size), Math.floor(x / this.size)];
  }
}
