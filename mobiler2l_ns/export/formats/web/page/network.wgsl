// The network's few operations. In front of this text the page puts what a number is (h: f16 or f32), and the threads
// of a tile of "convolve": ACROSS along the output channels, DOWN along the pixels, four of each for one thread.
// Maps are pixel after pixel, channels in fours; channel counts are multiples of eight.

struct Camera {
  right: vec4f, up: vec4f, back: vec4f, origin: vec4f, // columns of the pose
  intrinsics: vec4f,                                   // fx, fy, cx, cy in pixels
  sphere: vec4f,                                       // centre and radius; radius 1 at 0 without one
  settings: vec4f,                                     // stride, log2 of the pitch, shortest half chord
  grid: vec4u,                                         // rows, columns, points, frequencies
  flags: vec4u,                                        // in a sphere, contracted, channels, more than one pitch
}

struct Layer {
  inputs: u32, outputs: u32, rows: u32, columns: u32,
  stride: u32, taps: u32, activation: u32, adds: u32,
  weights: u32, bias: u32, count: u32, patches: u32, // places in the array of weights, in vectors; rows of a patch
}

@group(0) @binding(0) var<uniform> camera: Camera;
@group(0) @binding(1) var<storage, read> places: array<f32>;
@group(0) @binding(2) var<storage, read_write> encoded: array<h>;

@group(0) @binding(3) var<uniform> layer: Layer;
@group(0) @binding(4) var<storage, read> source: array<vec4<h>>;
@group(0) @binding(5) var<storage, read> weights: array<vec4<h>>;
@group(0) @binding(6) var<storage, read> added: array<vec4<h>>;
@group(0) @binding(7) var<storage, read_write> target_: array<vec4<h>>;

// Sine and cosine to 1e-7, for GPUs whose own are coarse (the Cephes library's sinf and cosf).
fn sine_cosine(angle: f32) -> vec2f {
  let quarter = round(angle * 0.63661977236);
  var r = fma(quarter, -1.5703125, angle);
  r = fma(quarter, -4.837512969970703e-4, r);
  r = fma(quarter, -7.54978995489188e-8, r);
  let s = r * r;
  let sine = fma(r * s, fma(s, fma(s, -1.9515295891e-4, 8.3321608736e-3), -1.6666654611e-1), r);
  let cosine = fma(s * s, fma(s, fma(s, 2.443315711809948e-5, -1.388731625493765e-3), 4.166664568298827e-2), fma(s, -0.5, 1.0));
  let turn = u32(i32(quarter)) & 3u;
  let both = select(vec2f(sine, cosine), vec2f(cosine, sine), (turn & 1u) == 1u);
  return both * select(vec2f(1.0), vec2f(-1.0), vec2<bool>(turn >= 2u, turn == 1u || turn == 2u));
}

struct Chord { start: vec3f, along: vec3f }

// Where the points of the ray through a place of the picture lie: start + t * along.
fn chord(pixel: vec2f) -> Chord {
  let x = (pixel.x - camera.intrinsics.z) / camera.intrinsics.x;
  let y = (camera.intrinsics.w - pixel.y) / camera.intrinsics.y;
  var direction = (x * camera.right.xyz + y * camera.up.xyz - camera.back.xyz) / camera.sphere.w;
  var origin = (camera.origin.xyz - camera.sphere.xyz) / camera.sphere.w;
  if (camera.flags.x == 1u) {
    let squared = dot(direction, direction);
    origin -= dot(origin, direction) / squared * direction;
    let inside = max(1.0 - dot(origin, origin), camera.settings.z * camera.settings.z);
    direction *= sqrt(inside / squared);
  }
  return Chord(origin, direction);
}

// A point of it, through the scene contraction or not.
fn point_at(ray: Chord, t: f32) -> vec3f {
  let point = ray.start + t * ray.along;
  if (camera.flags.y == 0u) { return point; }
  let size = max(max(abs(point.x), abs(point.y)), max(abs(point.z), 1.0));
  return point * ((2.0 - 1.0 / size) / size);
}

// One coordinate of one point of one ray: its sines, its cosines, itself. After the last point, the pitch and zeros.
@compute @workgroup_size(64)
fn encode(@builtin(global_invocation_id) id: vec3u) {
  let ray = id.x;
  let columns = camera.grid.y;
  if (ray >= camera.grid.x * columns) { return; }
  let scalar = id.y;
  let points = camera.grid.z;
  let frequencies = camera.grid.w;
  let wide = 2u * frequencies + 1u;
  let channels = camera.flags.z;
  var to = ray * channels + scalar * wide;
  if (scalar == 3u * points) {
    let end = (ray + 1u) * channels;
    if (camera.flags.w == 1u) { encoded[to] = h(camera.settings.y); to += 1u; }
    for (; to < end; to += 1u) { encoded[to] = h(0.0); }
    return;
  }
  let pixel = (vec2f(f32(ray % columns), f32(ray / columns)) + 0.5) * camera.settings.x;
  let point = point_at(chord(pixel), places[scalar / 3u]);
  let p = point[scalar % 3u];
  var angle = p;
  for (var f = 0u; f < frequencies; f += 1u) {
    let both = sine_cosine(angle);
    encoded[to + f] = h(both.x);
    encoded[to + frequencies + f] = h(both.y);
    angle *= 2.0;
  }
  encoded[to + 2u * frequencies] = h(p);
}

const DEPTH = select(8u, 4u, ACROSS < 4u); // vectors of input channels in a tile; 16 KiB hold both
const THREADS = ACROSS * DOWN;
const PIXELS = 4u * DOWN;
var<workgroup> pixels_tile: array<vec4<h>, PIXELS * DEPTH>;
var<workgroup> weights_tile: array<vec4<h>, 4u * DEPTH * ACROSS>;

// erf by Abramowitz and Stegun 7.1.26, good to 1.5e-7.
fn gelu(x: vec4f) -> vec4f {
  let size = abs(x) * 0.70710678118;
  let t = 1.0 / (1.0 + 0.3275911 * size);
  let series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return 0.5 * x * (1.0 + sign(x) * (1.0 - series * exp(-size * size)));
}

fn activate(x: vec4f) -> vec4f {
  switch layer.activation {
    case 1u: { return max(x, vec4f(0.0)); }
    case 2u: { return gelu(x); }
    case 3u: { return 1.0 / (1.0 + exp(-x)); }
    default: { return x; }
  }
}

// Four outputs of a pixel: with bias, residual and activation, to their place in the block of outputs.
fn write(product: vec4f, pixel: u32, output: u32, phase: u32) {
  if (pixel >= layer.rows * layer.columns) { return; }
  let y = (pixel / layer.columns) * layer.stride + phase / layer.stride;
  let x = (pixel % layer.columns) * layer.stride + phase % layer.stride;
  let to = (y * layer.columns * layer.stride + x) * (layer.outputs / 4u) + output;
  var value = product + vec4f(weights[layer.bias + output]);
  if (layer.adds == 1u) { value += vec4f(added[to]); }
  target_[to] = vec4<h>(activate(value));
}

// A 1x1 convolution, or a transposed one: each place (down, across) in a block of stride x stride outputs is a matrix
// product of its own, over taps x taps neighbouring pixels. Or one of patches, over their rows, each of which is a pixel
// of so many more channels. Sums of a tile are in h, sums of tiles in float32.
@compute @workgroup_size(ACROSS, DOWN)
fn convolve(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) me: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let inputs = layer.inputs / 4u;
  let outputs = layer.outputs / 4u;
  let tiles = (outputs + ACROSS - 1u) / ACROSS;
  let phase = group.z / tiles;
  let column = (group.z % tiles) * ACROSS;
  let down = phase / layer.stride;
  let across = phase % layer.stride;
  let first = (group.y * groups.x + group.x) * PIXELS;
  let count = layer.rows * layer.columns;
  var s0 = vec4f(); var s1 = vec4f(); var s2 = vec4f(); var s3 = vec4f();
  let taps = layer.taps * layer.taps * layer.patches;
  for (var tap = 0u; tap < taps; tap += 1u) {
    let dy = select(i32(tap / layer.taps) * (2 * i32(down) - 1), i32(tap), layer.patches > 1u);
    let dx = i32(tap % layer.taps) * (2 * i32(across) - 1);
    let matrix = layer.weights + (phase * taps + tap) * layer.inputs * outputs;
    for (var begin = 0u; begin < inputs; begin += DEPTH) {
      for (var i = index; i < PIXELS * DEPTH; i += THREADS) {
        let pixel = first + i / DEPTH;
        let channel = begin + i % DEPTH;
        let y = i32(pixel / layer.columns * layer.patches) + dy;
        let x = i32(pixel % layer.columns) + dx;
        let there = pixel < count && channel < inputs && y >= 0 && x >= 0 && y < i32(layer.rows * layer.patches) && x < i32(layer.columns);
        var value = vec4<h>();
        if (there) { value = source[(u32(y) * layer.columns + u32(x)) * inputs + channel]; }
        pixels_tile[i] = value;
      }
      for (var i = index; i < 4u * DEPTH * ACROSS; i += THREADS) {
        let channel = 4u * begin + i / ACROSS;
        let output = column + i % ACROSS;
        var value = vec4<h>();
        if (channel < layer.inputs && output < outputs) {
          value = weights[matrix + ((output / 2u) * layer.inputs + channel) * 2u + output % 2u];
        }
        weights_tile[i] = value;
      }
      workgroupBarrier();
      // Four pixels, each a variable: arrays would go to slow memory on some GPUs.
      var p0 = vec4<h>(); var p1 = vec4<h>(); var p2 = vec4<h>(); var p3 = vec4<h>();
      let row = 4u * me.y * DEPTH;
      for (var k = 0u; k < DEPTH; k += 1u) {
        let w0 = weights_tile[(4u * k) * ACROSS + me.x];
        let w1 = weights_tile[(4u * k + 1u) * ACROSS + me.x];
        let w2 = weights_tile[(4u * k + 2u) * ACROSS + me.x];
        let w3 = weights_tile[(4u * k + 3u) * ACROSS + me.x];
        let x0 = pixels_tile[row + k];
        let x1 = pixels_tile[row + DEPTH + k];
        let x2 = pixels_tile[row + 2u * DEPTH + k];
        let x3 = pixels_tile[row + 3u * DEPTH + k];
        p0 += x0.x * w0 + x0.y * w1 + x0.z * w2 + x0.w * w3;
        p1 += x1.x * w0 + x1.y * w1 + x1.z * w2 + x1.w * w3;
        p2 += x2.x * w0 + x2.y * w1 + x2.z * w2 + x2.w * w3;
        p3 += x3.x * w0 + x3.y * w1 + x3.z * w2 + x3.w * w3;
      }
      s0 += vec4f(p0); s1 += vec4f(p1); s2 += vec4f(p2); s3 += vec4f(p3);
      workgroupBarrier();
    }
  }
  let output = column + me.x;
  if (output >= outputs) { return; }
  let pixel = first + 4u * me.y;
  write(s0, pixel, output, phase);
  write(s1, pixel + 1u, output, phase);
  write(s2, pixel + 2u, output, phase);
  write(s3, pixel + 3u, output, phase);
}

@compute @workgroup_size(64)
fn sum(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i < layer.count) { target_[i] = source[i] + added[i]; }
}

// The picture onto the canvas; what whole blocks of rays have beyond it is left out.
@group(0) @binding(8) var<storage, read> picture: array<vec4<h>>;
@group(0) @binding(9) var<uniform> shape: vec4u; // columns of the picture's map, vectors of a pixel, has alpha

@vertex
fn cover(@builtin(vertex_index) i: u32) -> @builtin(position) vec4f {
  return vec4f(f32(i & 1u) * 4.0 - 1.0, f32(i >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn show(@builtin(position) at: vec4f) -> @location(0) vec4f {
  let colour = vec4f(picture[(u32(at.y) * shape.x + u32(at.x)) * shape.y]);
  return select(vec4f(colour.rgb, 1.0), vec4f(min(colour.rgb, vec3f(colour.a)), colour.a), shape.z == 1u);
}
