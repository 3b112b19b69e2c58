// The camera in the hand: it circles around a point, or stands and looks about, softly kept within the poses that the
// student was trained on (world up is +z).

import { Fence } from "./fence.js";

const RADIANS = Math.PI / 180;
const GIVE = 8 * RADIANS; // how far angles give way beyond their range
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const wrap = (angle) => angle - 2 * Math.PI * Math.round(angle / (2 * Math.PI));
const mix = (a, b, share) => a + share * (b - a);

// A value within its range, and beyond it the slower the farther out, at most by give.
function soft(value, low, high, give) {
  const over = value - clamp(value, low, high);
  return value - over + give * over / (Math.abs(over) + give);
}

// Where the hand has led it: azimuth, elevation (radians), distance and shift, which may be out of range; what is shown
// is held back, and rest() is where it goes when the hand leaves it.
class HeldCamera {
  constructor({ fence }, { middle, elevation, azimuth }) {
    this.middle = middle;
    [this.lowest, this.highest] = elevation.map((degrees) => clamp(degrees, -88, 88) * RADIANS);
    this.around = azimuth.extent >= 359.9;
    this.halfArc = azimuth.extent * RADIANS / 2;
    this.arcMiddle = azimuth.start * RADIANS + this.halfArc;
    this.fence = fence?.anchors ? new Fence(fence) : null;
  }

  state() {
    const { azimuth, elevation, distance, shift } = this;
    return { azimuth, elevation, distance, shift: [...shift] };
  }

  reset() {
    Object.assign(this, this.home, { shift: [...this.home.shift] });
    this.limit();
    Object.assign(this, this.rest());
  }

  // What of a state is shown.
  held({ azimuth, elevation, distance, shift }) {
    const turned = this.arcMiddle + soft(wrap(azimuth - this.arcMiddle), -this.halfArc, this.halfArc, GIVE);
    return {
      azimuth: this.around ? azimuth : turned,
      elevation: soft(elevation, this.lowest, this.highest, GIVE),
      distance: this.heldDistance(distance),
      shift,
    };
  }

  within({ azimuth, elevation, distance, shift }) {
    const turned = this.arcMiddle + clamp(wrap(azimuth - this.arcMiddle), -this.halfArc, this.halfArc);
    return {
      azimuth: this.around ? azimuth : turned,
      elevation: clamp(elevation, this.lowest, this.highest),
      distance: this.clampedDistance(distance),
      shift,
    };
  }

  // Where the camera goes when the hand leaves it: into the ranges, and so far towards a trained pose that it is no
  // stranger than those are.
  rest() {
    const state = this.within(this.state());
    if (!this.fence || this.strangeness(state) <= 1) return state;
    const [centre, direction] = this.fence.nearest(...this.sight(state));
    const anchor = { ...state, ...this.within(this.stateOf(centre, direction)) };
    let [stays, goes] = [0, 1];
    for (let i = 0; i < 12; i++) {
      const share = (stays + goes) / 2;
      if (this.strangeness(this.between(state, anchor, share)) > 1) stays = share;
      else goes = share;
    }
    return this.between(state, anchor, goes);
  }

  between(a, b, share) {
    return {
      azimuth: a.azimuth + share * wrap(b.azimuth - a.azimuth),
      elevation: mix(a.elevation, b.elevation, share),
      distance: mix(a.distance, b.distance, share),
      shift: a.shift.map((value, axis) => mix(value, b.shift[axis], share)),
    };
  }

  // Part of the way from one state to another.
  approach(from, to, share) {
    Object.assign(this, this.between(from, to, share));
  }

  strangeness(state) {
    return this.fence ? this.fence.strangeness(...this.sight(this.held(state))) : 0;
  }

  // A step that leads beyond the poses nearest to trained ones is taken the less the farther out it leads.
  loosely(change) {
    const before = this.state(), was = this.strangeness(before);
    change();
    const after = this.state(), is = this.strangeness(after);
    if (is <= was || is <= 1) return;
    const inside = was < 1 ? (1 - was) / (is - was) : 0;
    const give = Math.max(0, 1 - (Math.max(was, 1) - 1) / 0.75) ** 2 / (1 + is - Math.max(was, 1));
    Object.assign(this, this.between(before, after, inside + (1 - inside) * give));
  }

  // Not endlessly far beyond, from where the way back would be long.
  limit() {
    const most = GIVE * 6;
    this.elevation = clamp(this.elevation, this.lowest - most, this.highest + most);
    if (this.around) return;
    const arc = Math.min(this.halfArc + most, 3.1);
    this.azimuth = this.arcMiddle + clamp(wrap(this.azimuth - this.arcMiddle), -arc, arc);
  }

  pose() {
    const state = this.held(this.state()), { right, up, back } = this.axes(state), [centre] = this.sight(state);
    return [0, 1, 2].map((axis) => [right[axis], up[axis], back[axis], centre[axis]]);
  }

  // The camera as a few numbers, for links.
  code() {
    const { azimuth, elevation, distance, shift } = this.held(this.state());
    const angles = [wrap(azimuth), elevation].map((angle) => Number((angle / RADIANS).toFixed(2)));
    return [...angles, ...[distance, ...shift].map((value) => Number(value.toFixed(4)))].join(",");
  }

  // Whether it was such a code.
  goTo(code) {
    const numbers = code.split(",").map(Number);
    if (numbers.length !== 6 || !numbers.every(Number.isFinite)) return false;
    const [azimuth, elevation, distance, ...shift] = numbers;
    Object.assign(this, { azimuth: azimuth * RADIANS, elevation: elevation * RADIANS, distance, shift });
    this.limit();
    Object.assign(this, this.rest());
    return true;
  }

  // Stand where a pose does, upright.
  take(pose) {
    const centre = pose.map((row) => row[3]), direction = pose.map((row) => -row[2]);
    Object.assign(this, this.stateOf(centre, direction));
    this.limit();
  }
}

const directionTo = (azimuth, elevation) =>
  [Math.cos(elevation) * Math.cos(azimuth), Math.cos(elevation) * Math.sin(azimuth), Math.sin(elevation)];
const anglesOf = ([x, y, z]) => ({ azimuth: Math.atan2(y, x), elevation: Math.asin(clamp(z / (Math.hypot(x, y, z) || 1), -1, 1)) });

export class OrbitCamera extends HeldCamera {
  // manifest: its start_pose, and fence or (before there were any) pose_range.
  constructor(manifest) {
    const { start_pose: start, pose_range: range, fence, points } = manifest;
    const trained = fence ? { ...fence, look_at: fence.middle } : range;
    const known = trained.distance[1] > 0;
    const middle = known ? trained.look_at : points.centre;
    const offset = start.map((row, axis) => row[3] - middle[axis]);
    const distance = Math.hypot(...offset) || 1;
    let [low, high] = known ? trained.elevation_degrees : [-85, 85];
    // A capture from one distance, or of one height, leaves a little room around it.
    if (high - low < 1) [low, high] = [low - 10, high + 10];
    const azimuth = known ? trained.azimuth_degrees : { start: 0, extent: 360 };
    super(manifest, { middle, elevation: [low, high], azimuth });
    this.nearest = known ? trained.distance[0] : distance / 2;
    this.farthest = known ? trained.distance[1] : distance * 2;
    if (this.farthest < 1.5 * this.nearest) {
      this.nearest = Math.max(this.nearest / 1.4, Math.min(this.nearest, this.outside(points)));
      this.farthest *= 1.4;
    }
    this.home = { ...anglesOf(offset), distance, shift: [0, 0, 0] };
    this.reset();
  }

  // The distance from which a camera is outside of the sphere that holds the points, whichever way it looks from.
  outside({ in: kind, centre, radius }) {
    return kind === "sphere" ? 1.05 * (radius + Math.hypot(...this.middle.map((value, axis) => value - centre[axis]))) : 0;
  }

  heldDistance(distance) {
    const give = distance < this.nearest ? 0.05 * this.nearest : 0.15 * this.farthest;
    return soft(distance, this.nearest, this.farthest, give);
  }

  clampedDistance(distance) {
    return clamp(distance, this.nearest, this.farthest);
  }

  limit() {
    super.limit();
    this.distance = clamp(this.distance, this.nearest / 2, 2 * this.farthest);
    // The cameras looked past the middle by little.
    const far = Math.hypot(...this.shift), most = 0.2 * this.clampedDistance(this.distance);
    if (far > most) this.shift = this.shift.map((value) => value * most / far);
  }

  turn(right, up) {
    this.loosely(() => {
      this.azimuth -= right;
      this.elevation += up;
      this.limit();
    });
  }

  zoom(factor) {
    this.loosely(() => {
      this.distance /= factor;
      this.limit();
    });
  }

  // Move the scene by parts of the picture's height, for a focal length in heights.
  pan(right, down, focal) {
    this.loosely(() => {
      const axes = this.axes(this.state()), scale = this.distance / focal;
      this.shift = this.shift.map((value, axis) => value + scale * (axes.up[axis] * down - axes.right[axis] * right));
      this.limit();
    });
  }

  axes({ azimuth, elevation }) {
    const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
    return { right: [-sa, ca, 0], up: [-se * ca, -se * sa, ce], back: [ce * ca, ce * sa, se] };
  }

  // Centre and viewing direction.
  sight({ azimuth, elevation, distance, shift }) {
    const back = directionTo(azimuth, elevation);
    const centre = this.middle.map((value, axis) => value + shift[axis] + distance * back[axis]);
    return [centre, back.map((value) => -value)];
  }

  stateOf(centre, direction) {
    const distance = Math.max(1e-6, direction.reduce((sum, value, axis) => sum + value * (this.middle[axis] - centre[axis]), 0));
    const shift = centre.map((value, axis) => value + distance * direction[axis] - this.middle[axis]);
    return { ...anglesOf(direction.map((value) => -value)), distance, shift };
  }
}

// In a room: it stands near the middle and looks about; the shift is from the middle.
export class StandingCamera extends HeldCamera {
  constructor(manifest) {
    const { fence, start_pose: start, size, focal } = manifest;
    super(manifest, { middle: fence.middle, elevation: fence.elevation_degrees, azimuth: fence.azimuth_degrees });
    this.radius = Math.max(fence.distance[1], 1e-6);
    this.field = Math.max(size.width / focal.fx, size.height / focal.fy); // about what is seen, radians
    this.home = this.stateOf(start.map((row) => row[3]), start.map((row) => -row[2]));
    this.reset();
  }

  heldDistance() {
    return 0;
  }

  clampedDistance() {
    return 0;
  }

  limit() {
    super.limit();
    const far = Math.hypot(...this.shift);
    if (far > this.radius) this.shift = this.shift.map((value) => value * this.radius / far);
  }

  turn(right, up) {
    this.loosely(() => {
      this.azimuth += right / 3 * this.field;
      this.elevation += up / 3 * this.field;
      this.limit();
    });
  }

  step(move) {
    this.loosely(() => {
      this.shift = this.shift.map((value, axis) => value + this.radius * move[axis]);
      this.limit();
    });
  }

  zoom(factor) {
    this.step(this.axes(this.state()).back.map((value) => -value * Math.log(factor)));
  }

  pan(right, down) {
    const axes = this.axes(this.state());
    this.step(axes.up.map((value, axis) => value * down - axes.right[axis] * right));
  }

  axes({ azimuth, elevation }) {
    const [ca, sa, ce, se] = [Math.cos(azimuth), Math.sin(azimuth), Math.cos(elevation), Math.sin(elevation)];
    return { right: [sa, -ca, 0], up: [-se * ca, -se * sa, ce], back: [-ce * ca, -ce * sa, -se] };
  }

  sight({ azimuth, elevation, shift }) {
    return [this.middle.map((value, axis) => value + shift[axis]), directionTo(azimuth, elevation)];
  }

  stateOf(centre, direction) {
    return { ...anglesOf(direction), distance: 0, shift: centre.map((value, axis) => value - this.middle[axis]) };
  }
}

export function cameraOf(manifest) {
  return manifest.fence?.cameras === "outward" ? new StandingCamera(manifest) : new OrbitCamera(manifest);
}
