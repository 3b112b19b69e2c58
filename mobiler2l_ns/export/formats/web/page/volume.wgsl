// The student's volume. In front of this text the page puts network.wgsl and the volume's numbers: BINS, POINTS, CELLS,
// FAINT and so on, and of each of LEVELS its cells and where its planes lie in the array of weights, in vectors.

struct Grid { columns: u32, rows: u32, rays: u32, block: u32 } // of coarse rays; in a cell each way; fine rays of one

@group(0) @binding(10) var<uniform> grid: Grid;
@group(0) @binding(11) var<storage, read> density: array<h>; // all weights
@group(0) @binding(12) var<storage, read> edges: array<f32>;
@group(0) @binding(13) var<storage, read_write> placed: array<f32>; // of each coarse ray: POINTS places, optical depths
@group(0) @binding(14) var<storage, read> points: array<f32>;       // the same
@group(0) @binding(15) var<storage, read_write> surfaces: array<f32>; // of each fine ray: the place of what is seen

// In units of the box.
fn boxed(ray: Chord, t: f32) -> vec3f {
  return clamp(point_at(ray, t) * SCALES + SHIFTS, vec3f(-1.0), vec3f(1.0));
}

// The coarse density, linear between the middles of its cells.
fn density_at(place: vec3f) -> f32 {
  let at = (place + 1.0) * (f32(CELLS - 1u) / 2.0);
  let low = vec3u(min(at, vec3f(f32(CELLS) - 1.5)));
  let part = at - vec3f(low);
  let first = DENSITY + low.x + CELLS * (low.y + CELLS * low.z);
  var corner = array<f32, 4>();
  for (var i = 0u; i < 4u; i += 1u) {
    let row = first + CELLS * ((i & 1u) + CELLS * (i >> 1u));
    corner[i] = mix(f32(density[row]), f32(density[row + 1u]), part.x);
  }
  return mix(mix(corner[0], corner[1], part.y), mix(corner[2], corner[3], part.y), part.z);
}

// Points of one coarse ray, between which lie equal shares of the light that the coarse density stops; where that is
// nothing, the first optical depth is negative.
@compute @workgroup_size(64)
fn place(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64u + id.x;
  if (index >= grid.columns * grid.rows) { return; }
  let cell = vec2f(f32(index % grid.columns), f32(index / grid.columns)) + 0.5;
  let ray = chord(cell * (camera.settings.x / f32(grid.rays)));
  var weight = array<f32, BINS>();
  var behind = 0.0;
  var reached = 1.0;
  for (var bin = 0u; bin < BINS; bin += 1u) {
    behind += density_at(boxed(ray, 0.5 * (edges[bin] + edges[bin + 1u])));
    let passed = exp(-behind);
    weight[bin] = reached - passed;
    reached = passed;
  }
  let stopped = 1.0 - reached;
  let to = index * 2u * POINTS;
  if (stopped <= EMPTY) {
    placed[to + POINTS] = -1.0;
    return;
  }
  var t = array<f32, POINTS>();
  for (var k = 0u; k < POINTS; k += 1u) { t[k] = edges[0]; }
  var before = 0.0;
  for (var bin = 0u; bin < BINS; bin += 1u) {
    let here = weight[bin] + FAINT / f32(BINS);
    let step = edges[bin + 1u] - edges[bin];
    for (var k = 0u; k < POINTS; k += 1u) {
      let quantile = (f32(k) + 0.5) / f32(POINTS) * (stopped + FAINT);
      t[k] += clamp((quantile - before) / here, 0.0, 1.0) * step;
    }
    before += here;
  }
  let each = min(stopped, SOLID) / f32(POINTS);
  for (var k = 0u; k < POINTS; k += 1u) {
    placed[to + k] = t[k];
    placed[to + POINTS + k] = log((1.0 - f32(k) * each) / (1.0 - f32(k + 1u) * each));
  }
}

// What the planes hold at a place, then the map to features and the density's logarithm.
fn values_at(place: vec3f) -> array<vec4<h>, VALUES> {
  var features = array<vec4<h>, LEVELS * QUADS>();
  for (var level = 0u; level < LEVELS; level += 1u) {
    let cells = LEVEL_CELLS[level];
    let at = (place + 1.0) * (f32(cells - 1u) / 2.0);
    let low = vec3u(min(at, vec3f(f32(cells) - 1.5)));
    let part = at - vec3f(low);
    for (var plane = 0u; plane < 3u; plane += 1u) {
      let across = select(0u, 1u, plane == 2u);
      let down = select(2u, 1u, plane == 0u);
      let first = LEVEL_PLANES[level] + ((plane * cells + low[down]) * cells + low[across]) * QUADS;
      let below = first + cells * QUADS;
      let right = part[across];
      let under = part[down];
      let w0 = h((1.0 - right) * (1.0 - under));
      let w1 = h(right * (1.0 - under));
      let w2 = h((1.0 - right) * under);
      let w3 = h(right * under);
      for (var quad = 0u; quad < QUADS; quad += 1u) {
        features[level * QUADS + quad] +=
          w0 * weights[first + quad] + w1 * weights[first + QUADS + quad] +
          w2 * weights[below + quad] + w3 * weights[below + QUADS + quad];
      }
    }
  }
  var hidden = array<vec4<h>, HIDDEN>();
  for (var output = 0u; output < HIDDEN; output += 1u) {
    var sum = weights[HIDDEN_BIAS + output];
    var from_ = HIDDEN_WEIGHTS + (output / 2u) * 8u * LEVELS * QUADS + output % 2u;
    for (var input = 0u; input < LEVELS * QUADS; input += 1u) {
      let x = features[input];
      sum += x.x * weights[from_] + x.y * weights[from_ + 2u] + x.z * weights[from_ + 4u] + x.w * weights[from_ + 6u];
      from_ += 8u;
    }
    hidden[output] = max(sum, vec4<h>());
  }
  var values = array<vec4<h>, VALUES>();
  for (var output = 0u; output < VALUES; output += 1u) {
    var sum = weights[VALUES_BIAS + output];
    var from_ = VALUES_WEIGHTS + (output / 2u) * 8u * HIDDEN + output % 2u;
    for (var input = 0u; input < HIDDEN; input += 1u) {
      let x = hidden[input];
      sum += x.x * weights[from_] + x.y * weights[from_ + 2u] + x.z * weights[from_ + 4u] + x.w * weights[from_ + 6u];
      from_ += 8u;
    }
    values[output] = sum;
  }
  return values;
}

// Features, accumulation and surface of one fine ray.
@compute @workgroup_size(64)
fn composite(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64u + id.x;
  let columns = grid.columns * grid.block;
  if (index >= columns * grid.rows * grid.block) { return; }
  let at = vec2u(index % columns, index / columns);
  let coarse = at / grid.block;
  let begin = (coarse.y * grid.columns + coarse.x) * 2u * POINTS;
  var seen = array<vec4f, VALUES>();
  var surface = NOWHERE;
  if (points[begin + POINTS] >= 0.0) {
    let ray = chord((vec2f(at) + 0.5) * (camera.settings.x / f32(grid.rays * grid.block)));
    var passing = 1.0;
    var place = 0.0;
    for (var k = 0u; k < POINTS; k += 1u) {
      var values = values_at(boxed(ray, points[begin + k]));
      let steep = clamp(f32(values[FEATURES / 4u][FEATURES % 4u]), -STEEPEST, STEEPEST);
      let passed = exp(-points[begin + POINTS + k] * exp(steep));
      values[FEATURES / 4u][FEATURES % 4u] = h(1.0); // what is composited of this is the accumulation
      let weight = passing * (1.0 - passed);
      for (var i = 0u; i < VALUES; i += 1u) { seen[i] += weight * vec4f(values[i]); }
      place += weight * points[begin + k];
      passing *= passed;
    }
    if (1.0 - passing >= SHOWN) { surface = place / (1.0 - passing); }
  }
  surfaces[index] = surface;
  for (var i = 0u; i < VALUES; i += 1u) { target_[index * VALUES + i] = vec4<h>(seen[i]); }
}
