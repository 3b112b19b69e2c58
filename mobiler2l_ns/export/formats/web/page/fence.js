// How far a pose is from those that the student was trained on: 1 at the edge of what was trained, less within.

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

export class Fence {
  // fence: of the manifest.
  constructor({ anchors, reach }) {
    this.anchors = anchors.centres.map((centre, i) => [centre, anchors.directions[i]]);
    this.reach = reach;
  }

  from([centre, direction], position, looking) {
    const away = Math.hypot(position[0] - centre[0], position[1] - centre[1], position[2] - centre[2]);
    const turned = Math.acos(Math.min(1, Math.max(-1, dot(direction, looking)))) * 180 / Math.PI;
    return away / this.reach.distance + turned / this.reach.degrees;
  }

  // position: of the camera; looking: its direction, of length 1.
  strangeness(position, looking) {
    return Math.min(...this.anchors.map((anchor) => this.from(anchor, position, looking)));
  }

  // The anchor that is nearest: its centre and its direction.
  nearest(position, looking) {
    const far = this.anchors.map((anchor) => this.from(anchor, position, looking));
    return this.anchors[far.indexOf(Math.min(...far))];
  }
}
