// From a camera to the network's input, as manifest.json describes it. Rays are separable: a direction is a vector of
// its column plus a vector of its row. Of each coordinate one sine and cosine is computed; those of the doubled
// frequencies follow from it, in double precision.

// Fill out (rows x columns x channels) for the grid's rows from first on.
//   view: one of the manifest's views; pose: 3 rows of 4; intrinsics: fx, fy, cx, cy.
export function encode(manifest, view, pose, intrinsics, first, rows, channels, out) {
  const { stride, points, num_frequencies: frequencies, contracted } = manifest;
  const [fx, fy, cx, cy] = intrinsics;
  const inSphere = points.in === "sphere";
  const size = inSphere ? points.radius : 1;
  const centre = inSphere ? points.centre : [0, 0, 0];
  const start = pose.map((row, axis) => (row[3] - centre[axis]) / size);
  const several = manifest.pitches.length > 1;
  const p = new Float64Array(3);
  for (let i = 0; i < rows; i++) {
    const y = (cy - (first + i + 0.5) * stride) / fy;
    const ofRow = pose.map((row) => (row[1] * y - row[2]) / size);
    for (let j = 0; j < view.columns; j++) {
      const x = ((j + 0.5) * stride - cx) / fx;
      let dx = ofRow[0] + pose[0][0] * x / size, dy = ofRow[1] + pose[1][0] * x / size, dz = ofRow[2] + pose[2][0] * x / size;
      let [ox, oy, oz] = start;
      if (inSphere) {
        const squared = dx * dx + dy * dy + dz * dz;
        const along = (ox * dx + oy * dy + oz * dz) / squared;
        ox -= along * dx; oy -= along * dy; oz -= along * dz;
        const inside = Math.max(1 - (ox * ox + oy * oy + oz * oz), points.shortest_half_chord ** 2);
        const half = Math.sqrt(inside / squared);
        dx *= half; dy *= half; dz *= half;
      }
      let to = (i * view.columns + j) * channels;
      const end = to + channels;
      for (const place of points.places) {
        p[0] = ox + place * dx; p[1] = oy + place * dy; p[2] = oz + place * dz;
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
