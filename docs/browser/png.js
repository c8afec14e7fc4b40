// PNG files with all their bits. A canvas gives 8 bits of them at most, and depth in millimetres has 16.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const KINDS = {0: "grey", 2: "RGB", 3: "a palette", 4: "grey with alpha", 6: "RGB with alpha"};
const MOST_PIXELS = 2 ** 27;

/**
 * Decode a PNG file of one channel.
 * @param {ArrayBuffer} buffer The file.
 * @returns {Promise<{width: number, height: number, bits: number, missing: ?number, values: Uint8Array|Uint16Array}>}
 *   Its numbers as they are stored, row by row, and which of them the file calls transparent.
 * @throws {Error} It is no such file, or damaged; the message follows the file's name.
 */
export async function decodeGrey(buffer) {
  const bytes = new Uint8Array(buffer), view = new DataView(buffer);
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new Error("expected a PNG file of one channel, which this is not.");
  let header = null, missing = null;
  const packed = [];
  for (const {name, start, end} of chunks(bytes, view)) {
    if (name === "IHDR") header = readHeader(view, start);
    else if (name === "IDAT") packed.push(bytes.subarray(start, end));
    else if (name === "tRNS") missing = view.getUint16(start);
    else if (name === "acTL") throw new Error("it is animated; expected one picture.");
    else if (name === "eXIf") throw new Error("it has Exif data, which may turn it and are not read here. Save it without them.");
  }
  if (header === null) throw new Error("it is cut off or damaged.");
  const {width, height, bits} = header;
  const rowBytes = Math.ceil((width * bits) / 8);
  const rows = await inflated(packed, height * (rowBytes + 1));
  unfilter(rows, height, rowBytes, Math.max(1, bits / 8));
  return {width, height, bits, missing, values: unpacked(rows, width, height, bits, rowBytes)};
}

function* chunks(bytes, view) {
  for (let at = SIGNATURE.length; at + 12 <= bytes.length; ) {
    const start = at + 8, end = start + view.getUint32(at);
    if (end + 4 > bytes.length) throw new Error("it is cut off.");
    yield {name: String.fromCharCode(...bytes.subarray(at + 4, start)), start, end};
    at = end + 4;
  }
}

function readHeader(view, start) {
  const [width, height, bits, kind] = [view.getUint32(start), view.getUint32(start + 4), view.getUint8(start + 8), view.getUint8(start + 9)];
  if (kind !== 0) throw new Error(`expected one channel of grey, got ${KINDS[kind] ?? "an unknown kind"}.`);
  if (view.getUint8(start + 12)) throw new Error("it is interlaced, which is not read here. Save it without.");
  if (width * height > MOST_PIXELS || !width || !height) throw new Error(`it has ${width}×${height} pixels.`);
  return {width, height, bits};
}

async function inflated(parts, size) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const found = new Uint8Array(size);
  let at = 0;
  try {
    for (const reader = stream.getReader(); ; ) {
      const {done, value} = await reader.read();
      if (done) break;
      found.set(value, at);
      at += value.length;
    }
  } catch {
    throw new Error("it is damaged.");
  }
  if (at !== size) throw new Error("it is cut off or damaged.");
  return found;
}

/** Undo the filters of all rows (PNG specification, section 9), in place; a row begins with the number of its filter. */
function unfilter(rows, height, rowBytes, step) {
  for (let y = 0; y < height; y++) {
    const own = y * (rowBytes + 1) + 1, filter = rows[own - 1];
    for (let i = 0; i < rowBytes; i++) {
      const left = i >= step ? rows[own + i - step] : 0;
      const up = y ? rows[own + i - rowBytes - 1] : 0;
      const corner = y && i >= step ? rows[own + i - step - rowBytes - 1] : 0;
      rows[own + i] += [0, left, up, (left + up) >> 1, filter === 4 ? paeth(left, up, corner) : 0][filter];
    }
  }
}

function paeth(left, up, corner) {
  const [a, b, c] = [up - corner, left - corner, left + up - 2 * corner].map(Math.abs);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function unpacked(rows, width, height, bits, rowBytes) {
  const values = new (bits === 16 ? Uint16Array : Uint8Array)(width * height);
  for (let y = 0, to = 0; y < height; y++) {
    const own = y * (rowBytes + 1) + 1;
    for (let x = 0; x < width; x++, to++) {
      if (bits === 16) values[to] = (rows[own + 2 * x] << 8) | rows[own + 2 * x + 1];
      else values[to] = (rows[own + ((x * bits) >> 3)] >> (8 - bits - ((x * bits) & 7))) & ((1 << bits) - 1);
    }
  }
  return values;
}
