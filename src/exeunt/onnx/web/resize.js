// Resampling exactly as Pillow does it, because each browser scales pictures in its own way.
// A picture is {width, height, data}: RGB, three bytes per pixel.

const BITS = 22; // Pillow's weights are whole multiples of 2^-22

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const a = -0.5, d = Math.abs(x);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** For each new pixel: the first old pixel that counts, and the weights of this pixel and the following ones. */
function weightsOf(before, after, [support, filter]) {
  const scale = before / after, wide = Math.max(scale, 1), reach = support * wide;
  return Array.from({ length: after }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(before, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(filter((x - centre + 0.5) * (1 / wide)));
    const total = weights.reduce((sum, w) => sum + w, 0);
    return { first, weights: weights.map((w) => {
      const scaled = (total === 0 ? w : w / total) * 2 ** BITS;
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    }) };
  });
}

/** Resample one axis of `data`, which holds `lines` x `before` x `inner` values, to `after` values. */
function along(data, lines, before, inner, after, filter) {
  const made = new Uint8ClampedArray(lines * after * inner);
  weightsOf(before, after, filter).forEach(({ first, weights }, i) => {
    for (let line = 0; line < lines; line++) {
      for (let j = 0; j < inner; j++) {
        let sum = 2 ** (BITS - 1);
        weights.forEach((w, k) => { sum += w * data[(line * before + first + k) * inner + j]; });
        made[(line * after + i) * inner + j] = Math.floor(sum / 2 ** BITS);
      }
    }
  });
  return made;
}

function nearest(picture, width, height) {
  const places = (before, after) => {
    const step = before / after, found = [];
    for (let i = 0, at = step * 0.5; i < after; i++, at += step) found.push(Math.trunc(at));
    return found;
  };
  const columns = places(picture.width, width), rows = places(picture.height, height);
  const data = new Uint8ClampedArray(width * height * 3);
  rows.forEach((y, i) => columns.forEach((x, j) => {
    const from = (y * picture.width + x) * 3;
    data.set(picture.data.subarray(from, from + 3), (i * width + j) * 3);
  }));
  return { width, height, data };
}

function scaled(picture, width, height, interpolation) {
  if (interpolation === "nearest") return nearest(picture, width, height);
  const filter = FILTERS[interpolation];
  let { data } = picture;
  if (width !== picture.width) data = along(data, picture.height, picture.width, 3, width, filter);
  if (height !== picture.height) data = along(data, 1, picture.height, width * 3, height, filter);
  return { width, height, data };
}

/** Crop the centre of a picture to this size; pad it with black where it is smaller. */
function centre(picture, width, height) {
  const data = new Uint8ClampedArray(width * height * 3);
  const overlap = (have, want) => {
    const both = Math.min(have, want);
    return [Math.floor((have - both) / 2), Math.floor((want - both) / 2), both];
  };
  const [sx, tx, w] = overlap(picture.width, width), [sy, ty, h] = overlap(picture.height, height);
  for (let y = 0; y < h; y++) {
    const from = ((sy + y) * picture.width + sx) * 3;
    data.set(picture.data.subarray(from, from + w * 3), ((ty + y) * width + tx) * 3);
  }
  return { width, height, data };
}

/** Round as Python does: halves to the nearest even number. */
function rounded(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

/**
 * Return the picture at the size that the network takes.
 * `how`: size [height, width], mode, crop_share, interpolation.
 */
export function resize(picture, how) {
  const [height, width] = how.size ?? [picture.height, picture.width];
  if (picture.height === height && picture.width === width) return picture;
  if (how.mode === "stretch") return scaled(picture, width, height, how.interpolation);
  const ratios = [height / picture.height, width / picture.width];
  const factor = how.mode === "pad" ? Math.min(...ratios) : Math.max(...ratios) / how.crop_share;
  const side = (before) => Math.max(1, rounded(before * factor));
  return centre(scaled(picture, side(picture.width), side(picture.height), how.interpolation), width, height);
}

/** Return `scale` * value + `shift` of every value 0..255, channel after channel: 3 x height x width. */
export function normalise({ data }, scale, shift) {
  const plane = data.length / 3, values = new Float32Array(data.length);
  for (let channel = 0; channel < 3; channel++) {
    const factor = Math.fround(scale[channel]), more = Math.fround(shift[channel]);
    for (let i = 0; i < plane; i++) {
      values[channel * plane + i] = Math.fround(data[i * 3 + channel] * factor) + more;
    }
  }
  return values;
}
