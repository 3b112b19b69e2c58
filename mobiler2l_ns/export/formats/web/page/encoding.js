// From a camera to the network's input, as manifest.json describes it. Rays are separable: a direction is a vector of
// its column plus a vector of its row. Of each coordinate one sine and cosine is computed; those of the doubled
// frequencies follow from it, in double precision.

// Where the rays of a row lie, as six rows of numbers in out, step apart: x, y, z of their start and of their way; points
// are start + place * way. Their cells are size pixels wide.
//   pose: 3 rows of 4; intrinsics: fx, fy, cx, cy.
export function chords(manifest, pose, intrinsics, row, count, size, out, step) {
  const { points } = manifest;
  const [fx, fy, cx, cy] = intrinsics;
  const inSphere = points.in === "sphere";
  const unit = inSphere ? points.radius : 1;
  const centre = inSphere ? points.centre : [0, 0, 0];
  const [startX, startY, startZ] = pose.map((axis, i) => (axis[3] - centre[i]) / unit);
  const y = (cy - (row + 0.5) * size) / fy;
  const [rowX, rowY, rowZ] = pose.map((axis) => (axis[1] * y - axis[2]) / unit);
  const [rightX, rightY, rightZ] = pose.map((axis) => axis[0] / unit);
  const shortest = points.shortest_half_chord ** 2;
  for (let i = 0; i < count; i++) {
    const x = ((i + 0.5) * size - cx) / fx;
    let dx = rowX + rightX * x, dy = rowY + rightY * x, dz = rowZ + rightZ * x;
    let ox = startX, oy = startY, oz = startZ;
    if (inSphere) {
      const squared = dx * dx + dy * dy + dz * dz;
      const along = (ox * dx + oy * dy + oz * dz) / squared;
      ox -= along * dx; oy -= along * dy; oz -= along * dz;
      const inside = Math.max(1 - (ox * ox + oy * oy + oz * oz), shortest);
      const half = Math.sqrt(inside / squared);
      dx *= half; dy *= half; dz *= half;
    }
    out[i] = ox; out[i + step] = oy; out[i + 2 * step] = oz;
    out[i + 3 * step] = dx; out[i + 4 * step] = dy; out[i + 5 * step] = dz;
  }
}

// Fill out (rows x columns x channels) for the grid's rows from first on.
//   view: one of the manifest's views.
export function encode(manifest, view, pose, intrinsics, first, rows, channels, out) {
  const { stride, points, num_frequencies: frequencies, contracted } = manifest;
  const { columns } = view;
  const several = manifest.pitches.length > 1;
  const rays = new Float64Array(6 * columns), p = new Float64Array(3);
  for (let i = 0; i < rows; i++) {
    chords(manifest, pose, intrinsics, first + i, columns, stride, rays, columns);
    for (let j = 0; j < columns; j++) {
      let to = (i * columns + j) * channels;
      const end = to + channels;
      for (const place of points.places) {
        for (let axis = 0; axis < 3; axis++) p[axis] = rays[j + axis * columns] + place * rays[j + (axis + 3) * columns];
        if (contracted) {
          const m = Math.max(Math.abs(p[0]), Math.abs(p[1]), Math.abs(p[2]), 1);
          for (let axis = 0; axis < 3; axis++) p[axis] *= (2 - 1 / m) / m;
        }
        for (let axis = 0; axis < 3; axis++) {
          let sine = Math.sin(p[axis]), cosine = Math.cos(p[axis]);
          for (let f = 0; f < frequencies; f++) {
            out[to + f] = sine;
            out[to + frequencies + f] = cosine;
            [sine, cosine] = [2 * sine * cosine, 1 - 2 * sine * sine];
          }
          out[to + 2 * frequencies] = p[axis];
          to += 2 * frequencies + 1;
        }
      }
      if (several) out[to++] = Math.log2(view.pitch);
      out.fill(0, to, end);
    }
  }
}
