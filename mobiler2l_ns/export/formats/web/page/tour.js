// Paths of the camera, and films of them.

const TYPES = ["video/mp4;codecs=avc1.640028", "video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"];
const FASTEST = 30, SLOWEST = 10; // pictures a second of a film
const PATIENCE = 120; // seconds that a film may take to be drawn, as long as it is no slower than that
const wait = (ms) => new Promise((done) => setTimeout(done, Math.max(0, ms)));

function normalized(v) {
  const length = Math.hypot(...v) || 1;
  return v.map((value) => value / length);
}
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

// The turntable of a manifest: poses that are passed at equal times, smoothly (Catmull-Rom).
export class Path {
  constructor({ poses, seconds, closed }) {
    Object.assign(this, { poses, seconds, closed });
  }

  // The pose after a share of the way, 0..1; a closed path goes on from there.
  at(share) {
    const { poses, closed } = this, count = poses.length;
    const place = closed ? (share - Math.floor(share)) * count : Math.min(1, Math.max(0, share)) * (count - 1);
    const first = Math.min(Math.floor(place), closed ? count - 1 : Math.max(0, count - 2)), t = place - first;
    const pose = (i) => poses[closed ? (i + count) % count : Math.min(count - 1, Math.max(0, i))];
    const [a, b, c, d] = [-1, 0, 1, 2].map((step) => pose(first + step));
    const passed = a.map((row, r) => row.map((_, q) => {
      const [w, x, y, z] = [a, b, c, d].map((matrix) => matrix[r][q]);
      return x + 0.5 * t * (y - w + t * (2 * w - 5 * x + 4 * y - z + t * (3 * (x - y) + z - w)));
    }));
    const column = (q) => passed.map((row) => row[q]);
    const back = normalized(column(2)), right = normalized(cross(column(1), back)), up = cross(back, right);
    return passed.map((row, r) => [right[r], up[r], back[r], row[3]]);
  }
}

// The kind of film that this browser can write; undefined for none.
export function filmType() {
  if (typeof MediaRecorder === "undefined" || !HTMLCanvasElement.prototype.captureStream) return undefined;
  return TYPES.find((type) => MediaRecorder.isTypeSupported(type));
}

// A path as a film: all pictures are drawn first, however long that takes, and then shown at their time to the recorder.
//   drawn(pose): a canvas with the picture; background: a colour behind it; ms: of a picture, about;
//   progress(share); stopped(): whether to give up, which gives null.
export async function film(path, { type, drawn, background, ms, progress, stopped }) {
  const rate = Math.min(FASTEST, Math.max(SLOWEST, Math.floor(1000 * PATIENCE / (path.seconds * ms))));
  const count = Math.max(2, Math.round(path.seconds * rate)), pictures = [];
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  const paint = (picture) => {
    context.fillStyle = background;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, 0);
  };
  for (let i = 0; i < count; i++) {
    if (stopped()) return null;
    progress(i / count);
    const picture = await drawn(path.at(i / (path.closed ? count : count - 1)));
    // Encoders want even sizes.
    const [width, height] = [picture.width, picture.height].map((side) => Math.max(2, side - side % 2));
    if (!i) Object.assign(canvas, { width, height });
    paint(picture);
    pictures.push(await new Promise((done) => canvas.toBlob(done, "image/webp", 0.95)));
  }
  const parts = [], stream = canvas.captureStream(rate);
  const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 12e6 });
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const ended = new Promise((done, fail) => {
    recorder.onstop = done;
    recorder.onerror = ({ error }) => fail(error ?? new Error("the recorder failed"));
  });
  recorder.start();
  const began = performance.now();
  for (let i = 0; i < count && recorder.state === "recording"; i++) {
    if (stopped()) break;
    const bitmap = await createImageBitmap(pictures[i]);
    await wait(began + 1000 * i / rate - performance.now());
    paint(bitmap);
    bitmap.close();
  }
  await wait(began + 1000 * count / rate - performance.now());
  if (recorder.state !== "inactive") recorder.stop();
  await ended;
  for (const track of stream.getTracks()) track.stop();
  return stopped() ? null : new Blob(parts, { type: type.split(";")[0] });
}
