// Pillow's `Image.reduce` and `Image.resize` for 8 bits, with the same integers (Pillow's src/libImaging).
import type { Pixels } from "./geometry";

const MAX_BILINEAR_REDUCTION = 1.45; // as in src/pipnet/geometry.py
const REDUCING_GAP = 3;
const PRECISION_BITS = 22;

/** Average blocks of fx x fy pixels of a part of the image; those at the right and bottom may be smaller. */
export function reduce(
  image: Pixels,
  fx: number,
  fy: number,
  [x0, y0, x1, y1]: readonly [number, number, number, number] = [0, 0, image.width, image.height],
): Pixels {
  const width = Math.ceil((x1 - x0) / fx);
  const height = Math.ceil((y1 - y0) / fy);
  const data = new Uint8Array(width * height * 3);
  for (let row = 0, k = 0; row < height; row++) {
    const [top, bottom] = [y0 + row * fy, Math.min(y0 + (row + 1) * fy, y1)];
    for (let column = 0; column < width; column++, k += 3) {
      const [left, right] = [x0 + column * fx, Math.min(x0 + (column + 1) * fx, x1)];
      const count = (bottom - top) * (right - left);
      let [r, g, b] = [count >> 1, count >> 1, count >> 1];
      for (let y = top; y < bottom; y++) {
        const end = (y * image.width + right) * 3;
        for (let p = (y * image.width + left) * 3; p < end; p += 3) {
          r += image.data[p];
          g += image.data[p + 1];
          b += image.data[p + 2];
        }
      }
      const multiplier = Math.floor(2 ** 24 / count);
      data[k] = Math.floor((r * multiplier) / 2 ** 24);
      data[k + 1] = Math.floor((g * multiplier) / 2 ** 24);
      data[k + 2] = Math.floor((b * multiplier) / 2 ** 24);
    }
  }
  return { width, height, data };
}

/** Resize an image: pixels are averaged where it becomes smaller, bilinear where it becomes larger. */
export function resize(image: Pixels, width: number, height: number): Pixels {
  if (image.width % width === 0 && image.height % height === 0) {
    return reduce(image, image.width / width, image.height / height);
  }
  const reduction = Math.max(image.width / width, image.height / height);
  const filter = reduction > MAX_BILINEAR_REDUCTION ? hamming : bilinear;
  const fx = Math.floor(image.width / width / REDUCING_GAP) || 1;
  const fy = Math.floor(image.height / height / REDUCING_GAP) || 1;
  const source = fx > 1 || fy > 1 ? reduce(image, fx, fy) : image;
  const columns = weights(source.width, Math.fround(image.width / fx), width, filter);
  const rows = weights(source.height, Math.fround(image.height / fy), height, filter);
  return resampleRows(resampleColumns(source, width, columns), height, rows);
}

interface Weights {
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly values: Int32Array;
  readonly stride: number;
}

function bilinear(x: number): number {
  return Math.max(1 - Math.abs(x), 0);
}

function hamming(x: number): number {
  const distance = Math.abs(x);
  if (distance === 0) return 1;
  if (distance >= 1) return 0;
  const angle = distance * Math.PI;
  return (Math.sin(angle) / angle) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(angle));
}

/** Return the weights of the source pixels of each pixel; both filters have a support of 1. */
function weights(side: number, covered: number, size: number, filter: (x: number) => number): Weights {
  const scale = covered / size;
  const support = Math.max(scale, 1);
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(size);
  const count = new Int32Array(size);
  const values = new Int32Array(size * stride);
  for (let i = 0; i < size; i++) {
    const center = (i + 0.5) * scale;
    const low = Math.max(Math.trunc(center - support + 0.5), 0);
    const high = Math.min(Math.trunc(center + support + 0.5), side);
    const exact = Array.from({ length: high - low }, (_, k) => filter((k + low - center + 0.5) / support));
    const sum = exact.reduce((a, b) => a + b, 0) || 1;
    exact.forEach((value, k) => (values[i * stride + k] = Math.trunc((value / sum) * 2 ** PRECISION_BITS + 0.5)));
    first[i] = low;
    count[i] = high - low;
  }
  return { first, count, values, stride };
}

function resampleColumns(image: Pixels, width: number, table: Weights): Pixels {
  if (width === image.width) return image;
  const data = new Uint8Array(width * image.height * 3);
  for (let row = 0; row < image.height; row++) {
    for (let i = 0; i < width; i++) {
      const start = (row * image.width + table.first[i]) * 3;
      sample(image.data, start, 3, table, i, data, (row * width + i) * 3);
    }
  }
  return { width, height: image.height, data };
}

function resampleRows(image: Pixels, height: number, table: Weights): Pixels {
  if (height === image.height) return image;
  const data = new Uint8Array(image.width * height * 3);
  for (let i = 0; i < height; i++) {
    for (let column = 0; column < image.width; column++) {
      const start = (table.first[i] * image.width + column) * 3;
      sample(image.data, start, image.width * 3, table, i, data, (i * image.width + column) * 3);
    }
  }
  return { width: image.width, height, data };
}

function sample(
  source: Uint8Array,
  start: number,
  step: number,
  table: Weights,
  index: number,
  target: Uint8Array,
  position: number,
): void {
  const half = 1 << (PRECISION_BITS - 1);
  let [r, g, b] = [half, half, half];
  const offset = index * table.stride;
  for (let k = 0, p = start; k < table.count[index]; k++, p += step) {
    const weight = table.values[offset + k];
    r += source[p] * weight;
    g += source[p + 1] * weight;
    b += source[p + 2] * weight;
  }
  target[position] = Math.min(r >> PRECISION_BITS, 255);
  target[position + 1] = Math.min(g >> PRECISION_BITS, 255);
  target[position + 2] = Math.min(b >> PRECISION_BITS, 255);
}
