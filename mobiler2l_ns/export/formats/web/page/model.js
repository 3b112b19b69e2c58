// What the folder holds: manifest.json (cameras, rays, encoding), network.json (layers) and the weights.

export class ModelError extends Error {}

// A file of the folder as the server has it now, whatever the browser still holds of an older export.
export async function get(name) {
  let response;
  try {
    response = await fetch(name, { cache: "no-cache" });
  } catch {
    throw new ModelError(`${name} could not be loaded: the server does not answer.`);
  }
  if (!response.ok) throw new ModelError(`${name} could not be loaded: the server says ${response.status}.`);
  return response;
}

async function getJSON(name) {
  try {
    return await (await get(name)).json();
  } catch (error) {
    if (error instanceof ModelError) throw error;
    throw new ModelError(`${name} is damaged. Export the page again, or copy the whole folder.`);
  }
}

async function getBytes(name, expected, progress) {
  const response = await get(name);
  const bytes = new Uint8Array(expected);
  const reader = response.body.getReader();
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (length + value.length <= expected) bytes.set(value, length);
      length += value.length;
      progress(Math.min(length, expected) / expected);
    }
  } catch {
    throw new ModelError(`${name} could not be loaded: the connection broke.`);
  }
  if (length !== expected) {
    throw new ModelError(
      `${name} holds ${length} bytes, ${expected} are expected: the model file is incomplete or of another export. ` +
      "Copy the whole folder again.");
  }
  return bytes;
}

function crc32(bytes) {
  const table = new Uint32Array(256).map((_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = table[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// The numbers of half-precision floats, which not every browser has an array for.
export function fromHalf(halves) {
  const bits = new Uint32Array(halves.length);
  const floats = new Float32Array(bits.buffer);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i], sign = (half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) bits[i] = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    else if (rest >= 0x400) bits[i] = sign | (rest + 0x1c000) << 13;
    else floats[i] = (sign ? -1 : 1) * rest * 2 ** -24;
  }
  return floats;
}

// {manifest, network, weights: bytes}; progress gets the share of the weights that has come.
export async function loadModel(progress) {
  const [manifest, network] = await Promise.all([getJSON("manifest.json"), getJSON("network.json")]);
  const { file, bytes, crc32: expected } = network.weights;
  const weights = await getBytes(file, bytes, progress);
  if (crc32(weights) !== expected) {
    throw new ModelError(`${file} is damaged: its checksum is wrong. Copy the whole folder again.`);
  }
  return { manifest, network, weights };
}
