// The coordinate convention of src/pipnet/geometry.py, and its crops.
// (0, 0) is the center of the top-left pixel; boxes are [x0, y0, x1, y1] in pixels.
import { reduce } from "./resample";

export interface Pixels {
  readonly width: number;
  readonly height: number;
  /** RGB, three bytes a pixel, row by row. */
  readonly data: Uint8Array;
}

export type Point = readonly [number, number];
export type Box = readonly [number, number, number, number];
/** x' = a x + b y + c, y' = d x + e y + f, as [a, b, c, d, e, f]. */
export type Affine = readonly [number, number, number, number, number, number];

export interface CropConfig {
  readonly scale: number;
  readonly square: boolean;
  readonly clip: boolean;
  readonly shift_up: number;
  readonly whole_pixels?: boolean;
}

const MIN_BOX_SIDE = 0.01;

/** Return the part of an image that the crop of a face's box shows. */
export function cropRegion(box: Box, crop: CropConfig, width: number, height: number): Box {
  const sides = [box[2] - box[0], box[3] - box[1]];
  const longer = Math.max(...sides);
  const x = (box[0] + box[2]) / 2;
  const y = (box[1] + box[3]) / 2 - crop.shift_up * longer;
  const halfX = ((crop.square ? longer : sides[0]) / 2) * crop.scale;
  const halfY = ((crop.square ? longer : sides[1]) / 2) * crop.scale;
  const corners: Box = [x - halfX, y - halfY, x + halfX, y + halfY];
  if (!crop.clip) return float32(corners);
  const clipX = (v: number) => Math.min(Math.max(v, -0.5), width - 0.5);
  const clipY = (v: number) => Math.min(Math.max(v, -0.5), height - 0.5);
  const clipped: Box = [clipX(corners[0]), clipY(corners[1]), clipX(corners[2]), clipY(corners[3])];
  const isInside = Math.min(clipped[2] - clipped[0], clipped[3] - clipped[1]) >= MIN_BOX_SIDE;
  return float32(isInside ? clipped : corners);
}

function float32(box: Box): Box {
  return box.map(Math.fround) as unknown as Box;
}

export function tightBox(points: readonly Point[]): Box {
  const xs = points.map((p) => p[0]);
  const ys = points.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** Return the intersection over union of two boxes. */
export function boxIou(a: Box, b: Box): number {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const area = (box: Box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / Math.max(area(a) + area(b) - width * height, 1e-30);
}

export function apply(matrix: Affine, [x, y]: Point): Point {
  return [matrix[0] * x + matrix[1] * y + matrix[2], matrix[3] * x + matrix[4] * y + matrix[5]];
}

/** Return the map that applies `first`, then `second`. */
export function compose(first: Affine, second: Affine): Affine {
  const [a, b, c, d, e, f] = second;
  const [g, h, i, j, k, l] = first;
  return [a * g + b * j, a * h + b * k, a * i + b * l + c, d * g + e * j, d * h + e * k, d * i + e * l + f];
}

export function invert([a, b, c, d, e, f]: Affine): Affine {
  const determinant = a * e - b * d;
  if (determinant === 0) return [0, 0, 0, 0, 0, 0];
  const [p, q, r, s] = [e / determinant, -b / determinant, -d / determinant, a / determinant];
  return [p, q, -(p * c + q * f), r, s, -(r * c + s * f)];
}

/** Return the map from pixels of the image to pixels of the size x size crop of a box. */
export function boxToCrop(box: Box, size: number): Affine {
  const sx = size / (box[2] - box[0]);
  const sy = size / (box[3] - box[1]);
  return [sx, 0, -box[0] * sx - 0.5, 0, sy, -box[1] * sy - 0.5];
}

/** Return the map from pixels of a crop to pixels of the crop rotated clockwise around its center. */
export function rotateCrop(degrees: number, size: number): Affine {
  const cos = Math.cos((degrees * Math.PI) / 180);
  const sin = Math.sin((degrees * Math.PI) / 180);
  const center = (size - 1) / 2;
  return [cos, -sin, center - cos * center + sin * center, sin, cos, center - sin * center - cos * center];
}

/** Return the angle in degrees of the similarity that brings source nearest to target (Umeyama 1991). */
export function similarityAngle(source: readonly Point[], target: readonly Point[]): number {
  const mean = (points: readonly Point[], axis: 0 | 1) =>
    points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const [sx, sy, tx, ty] = [mean(source, 0), mean(source, 1), mean(target, 0), mean(target, 1)];
  let cos = 0;
  let sin = 0;
  source.forEach(([x, y], i) => {
    const [u, v] = target[i];
    cos += (x - sx) * (u - tx) + (y - sy) * (v - ty);
    sin += (x - sx) * (v - ty) - (y - sy) * (u - tx);
  });
  return (Math.atan2(sin, cos) * 180) / Math.PI;
}

/**
 * Warp an image bilinearly to size x size pixels, black outside the image. If the map reduces by 2 or more,
 * the covered part is first averaged by a whole factor, as in `pipnet.geometry.warp`.
 */
export function warp(image: Pixels, matrix: Affine, size: number): Uint8Array {
  const scale = Math.sqrt(Math.abs(matrix[0] * matrix[4] - matrix[1] * matrix[3]));
  const factor = Math.floor(1 / Math.max(scale, 1e-9) + 1e-6);
  if (factor < 2) return warpBilinear(image, invert(matrix), size);
  const [part, map] = reduceCovered(image, matrix, size, factor);
  return warpBilinear(part, invert(map), size);
}

function reduceCovered(image: Pixels, matrix: Affine, size: number, factor: number): [Pixels, Affine] {
  const inverse = invert(matrix);
  const edges = [-0.5, size - 0.5];
  const corners = edges.flatMap((y) => edges.map((x) => apply(inverse, [x, y])));
  const axes = ([0, 1] as const).map((axis) => {
    const side = axis === 0 ? image.width : image.height;
    const values = corners.map((corner) => corner[axis]);
    let low = Math.min(Math.max(Math.floor(Math.min(...values)), 0), side - 1);
    const high = Math.min(Math.max(Math.floor(Math.max(...values)) + 2, low + 1), side);
    const blocks = Math.ceil((high - low) / factor);
    low = Math.max(Math.min(low, side - blocks * factor), 0); // whole blocks up to the border, if there is room
    return { low, end: Math.min(low + blocks * factor, side) };
  });
  const [x, y] = axes;
  const shift = (factor - 1) / 2;
  const back: Affine = [factor, 0, x.low + shift, 0, factor, y.low + shift];
  return [reduce(image, factor, factor, [x.low, y.low, x.end, y.end]), compose(back, matrix)];
}

function warpBilinear(image: Pixels, inverse: Affine, size: number): Uint8Array {
  const { width, height, data } = image;
  const out = new Uint8Array(size * size * 3);
  for (let row = 0, k = 0; row < size; row++) {
    for (let column = 0; column < size; column++, k += 3) {
      const x = inverse[0] * column + inverse[1] * row + inverse[2];
      const y = inverse[3] * column + inverse[4] * row + inverse[5];
      const left = Math.floor(x);
      const top = Math.floor(y);
      let [r, g, b] = [0.5, 0.5, 0.5];
      for (let j = Math.max(top, 0); j <= Math.min(top + 1, height - 1); j++) {
        const weightY = 1 - Math.abs(y - j);
        for (let i = Math.max(left, 0); i <= Math.min(left + 1, width - 1); i++) {
          const weight = weightY * (1 - Math.abs(x - i));
          const p = (j * width + i) * 3;
          r += weight * data[p];
          g += weight * data[p + 1];
          b += weight * data[p + 2];
        }
      }
      out[k] = r;
      out[k + 1] = g;
      out[k + 2] = b;
    }
  }
  return out;
}
