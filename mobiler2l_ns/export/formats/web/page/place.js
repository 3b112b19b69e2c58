// Objects that a finger places on the scene: balls that stay where they are in the world while the view moves, in front
// of what lies behind them and hidden by what lies before them. They live as long as the page.

import { showHint } from "./messages.js";
import { Surfaces } from "./surfaces.js";

const RADIUS = 0.03; // of a ball, in heights of the picture where it is placed
const COLOURS = [[255, 92, 57], [52, 152, 255], [255, 200, 40], [80, 200, 110]];
const LIGHT = [-0.4, 0.5, 0.77]; // from where it comes, in the camera's axes: right, up, back
const FINGER = 18; // CSS pixels around a ball that are still its own
const SHARPEST = 4; // pixels of the balls' canvas for one of the picture, at most

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

export class Placed {
  // canvas: over the picture, for the balls alone; button: while it is pressed, taps place and remove.
  constructor(canvas, model, button) {
    Object.assign(this, { canvas, model, button, balls: [], made: 0, shown: null, on: false });
    this.context = canvas.getContext("2d");
    button.addEventListener("click", () => this.toggle());
  }

  toggle() {
    this.on = !this.on;
    this.button.setAttribute("aria-pressed", String(this.on));
    showHint(this.on ? "Tap to place a ball · tap a ball to remove it" : "");
  }

  // x, y: of the window; box: where the picture is there.
  async tap(x, y, box) {
    const done = await this.touch((x - box.x) / box.width, (y - box.y) / box.height, box.height);
    showHint(done ? "" : "Nothing is there that a ball could lie on");
  }

  // After each picture: engine's last one is of this view, pose and intrinsics.
  async drawn(engine, view, pose, intrinsics) {
    this.shown = { engine, view, pose, intrinsics, surfaces: null };
    await this.paint();
  }

  // Of the picture that is shown; null where an engine has none.
  async surfaces() {
    const { shown } = this;
    if (!shown) return null;
    const { engine, view, pose, intrinsics } = shown;
    if (!shown.surfaces) {
      const places = await engine.surfaces();
      if (places) shown.surfaces = new Surfaces(this.model, view, pose, intrinsics, places);
    }
    return shown.surfaces;
  }

  // A ball goes where the picture is touched; a ball that is touched goes away. Whether either was done: not where nothing
  // is. x, y: shares of the picture's width and height; height: of the picture in CSS pixels.
  async touch(x, y, height) {
    const surfaces = await this.surfaces();
    if (!surfaces) return false;
    const { view, pose, intrinsics } = this.shown;
    const [u, v] = [x * view.width, y * view.height], reach = FINGER / height * view.height;
    const touched = this.nearest(u, v, reach, surfaces);
    if (touched) {
      this.balls = this.balls.filter((ball) => ball !== touched);
    } else {
      const [row, column] = surfaces.at(u, v), point = surfaces.point(row, column);
      if (!point) return false;
      const radius = RADIUS * surfaces.depth(row, column) * view.height / intrinsics[1];
      const back = pose.map((axis, i) => axis[3] - point[i]), far = Math.hypot(...back);
      const normal = surfaces.normal(row, column) ?? back.map((value) => value / far);
      const centre = point.map((value, i) => value + radius * normal[i]);
      this.balls.push({ centre, radius, colour: COLOURS[this.made++ % COLOURS.length] });
    }
    await this.paint();
    return true;
  }

  // In the axes of the shown camera: right, up, back.
  seen({ centre }) {
    const { pose } = this.shown;
    return [0, 1, 2].map((column) => pose.reduce((sum, axis, i) => sum + axis[column] * (centre[i] - axis[3]), 0));
  }

  // The foremost ball that is seen within reach of a place, in pixels of the picture.
  nearest(u, v, reach, surfaces) {
    const { intrinsics: [fx, fy, cx, cy] } = this.shown;
    const touched = this.balls.map((ball) => [ball, this.seen(ball)]).filter(([{ radius }, [x, y, back]]) => {
      if (back >= -radius) return false;
      const away = Math.hypot(cx + fx * x / -back - u, cy - fy * y / -back - v);
      const [row, column] = surfaces.at(cx + fx * x / -back, cy - fy * y / -back);
      return away < fx * radius / -back + reach && surfaces.depth(row, column) > -back - radius;
    });
    return touched.sort(([, a], [, b]) => b[2] - a[2])[0]?.[0];
  }

  async paint() {
    const { canvas, context, balls, shown } = this;
    canvas.hidden = !balls.length;
    if (!balls.length || !shown) return;
    const surfaces = await this.surfaces();
    if (shown !== this.shown || !surfaces) return;
    const { view: { width, height } } = shown;
    const scale = Math.min(SHARPEST, Math.max(1, Math.ceil(canvas.clientWidth * devicePixelRatio / width)));
    Object.assign(canvas, { width: width * scale, height: height * scale });
    const image = context.createImageData(canvas.width, canvas.height);
    const behind = balls.map((ball) => [ball, this.seen(ball)]).sort(([, a], [, b]) => a[2] - b[2]);
    for (const [ball, middle] of behind) this.paintBall(image, scale, ball, middle, surfaces);
    context.putImageData(image, 0, 0);
  }

  // Each pixel's ray meets the ball or not: its edge is as smooth as a pixel, and so is that of what hides it.
  paintBall({ data, width, height }, scale, { radius, colour }, middle, surfaces) {
    const { intrinsics } = this.shown, [fx, fy, cx, cy] = intrinsics.map((value) => value * scale);
    const depth = -middle[2];
    if (depth <= 1.01 * radius) return;
    const reach = 1.2 * radius / Math.sqrt(depth * depth - radius * radius);
    const [x, y] = [cx + fx * middle[0] / depth, cy - fy * middle[1] / depth];
    const range = (at, size, end) => [Math.max(0, Math.floor(at - size)), Math.min(end, Math.ceil(at + size) + 1)];
    const slant = 1 + Math.hypot(middle[0], middle[1]) / depth; // off the middle a ball is seen as an ellipse
    const [left, right] = range(x, fx * reach * slant + 1, width), [top, bottom] = range(y, fy * reach * slant + 1, height);
    const size = surfaces.size * scale, hidden = this.depths(surfaces, left / size, right / size, top / size, bottom / size);
    const squared = dot(middle, middle);
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const ray = [(column + 0.5 - cx) / fx, (cy - row - 0.5) / fy, -1], length = dot(ray, ray);
        const along = dot(ray, middle), beside = Math.sqrt(Math.max(0, squared - along * along / length));
        const covered = Math.min(1, (radius - beside) * fx / depth + 0.5);
        if (covered <= 0) continue;
        const inside = Math.sqrt(Math.max(0, radius * radius - beside * beside) / length), t = along / length - inside;
        const alpha = covered * hidden((column + 0.5) / size, (row + 0.5) / size, t);
        if (alpha <= 0) continue;
        const normal = ray.map((value, i) => (t * value - middle[i]) / radius), lit = Math.max(0, dot(normal, LIGHT));
        const [diffuse, gloss] = [0.35 + 0.65 * lit, 110 * lit ** 40];
        const at = 4 * (row * width + column), before = data[at + 3] / 255 * (1 - alpha), whole = alpha + before;
        for (let c = 0; c < 3; c++) {
          data[at + c] = (alpha * (colour[c] * diffuse + gloss) + before * data[at + c]) / whole;
        }
        data[at + 3] = 255 * whole;
      }
    }
  }

  // A function that says how much of a place of the picture, in fine rays, lies behind a depth: of the four rays around
  // it each as much as it is near.
  depths(surfaces, left, right, top, bottom) {
    const [first, begin] = [Math.floor(left - 0.5), Math.floor(top - 0.5)];
    const [across, down] = [Math.ceil(right) + 2 - first, Math.ceil(bottom) + 2 - begin];
    const known = new Float64Array(across * down);
    for (let i = 0; i < known.length; i++) known[i] = surfaces.depth(begin + Math.floor(i / across), first + i % across);
    return (x, y, depth) => {
      const [column, row] = [Math.floor(x - 0.5), Math.floor(y - 0.5)], [beyond, under] = [x - 0.5 - column, y - 0.5 - row];
      const at = (row - begin) * across + column - first;
      const free = (i) => (known[i] >= depth ? 1 : 0);
      return (1 - under) * ((1 - beyond) * free(at) + beyond * free(at + 1)) +
        under * ((1 - beyond) * free(at + across) + beyond * free(at + across + 1));
    };
  }

  // A picture with the balls over it, as a canvas.
  over(picture) {
    if (!this.balls.length) return picture;
    const out = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
    const context = out.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0);
    context.drawImage(this.canvas, 0, 0, out.width, out.height);
    return out;
  }
}
