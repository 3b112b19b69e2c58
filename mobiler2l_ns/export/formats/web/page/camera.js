// A camera that circles around a point, within the range of poses the student was trained on (world up is +z).

const RADIANS = Math.PI / 180;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const wrap = (angle) => angle - 2 * Math.PI * Math.round(angle / (2 * Math.PI));

export class OrbitCamera {
  // manifest: its start_pose and pose_range.
  constructor({ start_pose: start, pose_range: range, points }) {
    const known = range.distance[1] > 0;
    this.middle = known ? range.look_at : points.centre;
    const [x, y, z] = start.map((row, axis) => row[3] - this.middle[axis]);
    const distance = Math.hypot(x, y, z) || 1;
    const azimuth = Math.atan2(y, x);
    this.nearest = known ? range.distance[0] : distance / 2;
    this.farthest = known ? range.distance[1] : distance * 2;
    let [low, high] = known ? range.elevation_degrees : [-85, 85];
    // A capture from one distance, or of one height, leaves a little room around it.
    if (this.farthest < 1.5 * this.nearest) {
      this.nearest = Math.max(this.nearest / 1.4, Math.min(this.nearest, this.outside(points)));
      this.farthest *= 1.4;
    }
    if (high - low < 1) [low, high] = [low - 10, high + 10];
    this.lowest = clamp(low, -88, 88) * RADIANS;
    this.highest = clamp(high, -88, 88) * RADIANS;
    const arc = known ? range.azimuth_degrees : { start: 0, extent: 360 };
    this.around = arc.extent >= 359.9;
    this.halfArc = arc.extent * RADIANS / 2;
    this.arcMiddle = arc.start * RADIANS + this.halfArc;
    this.home = { azimuth, elevation: Math.asin(z / distance), distance, shift: [0, 0, 0] };
    this.reset();
  }

  // The distance from which a camera is outside of the sphere that holds the points, whichever way it looks from.
  outside({ in: kind, centre, radius }) {
    return kind === "sphere" ? 1.05 * (radius + Math.hypot(...this.middle.map((value, axis) => value - centre[axis]))) : 0;
  }

  reset() {
    Object.assign(this, this.home, { shift: [0, 0, 0] });
    this.limit();
  }

  limit() {
    this.distance = clamp(this.distance, this.nearest, this.farthest);
    this.elevation = clamp(this.elevation, this.lowest, this.highest);
    if (!this.around) {
      this.azimuth = this.arcMiddle + clamp(wrap(this.azimuth - this.arcMiddle), -this.halfArc, this.halfArc);
    }
    // The cameras looked past the middle by little.
    const far = Math.hypot(...this.shift), most = 0.2 * this.distance;
    if (far > most) this.shift = this.shift.map((value) => value * most / far);
  }

  turn(right, up) {
    this.azimuth -= right;
    this.elevation += up;
    this.limit();
  }

  zoom(factor) {
    this.distance /= factor;
    this.limit();
  }

  // Move the scene by parts of the picture's height, for a focal length in heights.
  pan(right, down, focal) {
    const axes = this.axes(), scale = this.distance / focal;
    this.shift = this.shift.map((value, axis) => value + scale * (axes.up[axis] * down - axes.right[axis] * right));
    this.limit();
  }

  axes() {
    const [ca, sa, ce, se] = [Math.cos(this.azimuth), Math.sin(this.azimuth), Math.cos(this.elevation), Math.sin(this.elevation)];
    return { right: [-sa, ca, 0], up: [-se * ca, -se * sa, ce], back: [ce * ca, ce * sa, se] };
  }

  // Three rows of four: right, up and back axes and the centre as columns.
  pose() {
    const { right, up, back } = this.axes();
    return [0, 1, 2].map((axis) => [
      right[axis], up[axis], back[axis], this.middle[axis] + this.shift[axis] + this.distance * back[axis],
    ]);
  }
}
