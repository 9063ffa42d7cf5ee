// Head pose by a rigid 3D mean face and a camera far away: src/pipnet/inference/pose.py, whose module
// docstring has the frame and the signs of the angles.
import face from "../../src/pipnet/inference/mean_face_3d.toml";
import type { Pixels, Point } from "./geometry";

export interface Pose {
  /** Degrees. */
  readonly yaw: number;
  readonly pitch: number;
  readonly roll: number;
}

type Vector = readonly [number, number, number];
type Matrix = readonly [Vector, Vector, Vector];

interface Fit {
  readonly rotation: Matrix;
  readonly shift: Point;
  readonly scale: number;
  readonly cost: number;
}

const SCHEME = "300w";
const START_YAWS = [-60, 0, 60];
const STEPS = 15;
const DAMPING = 1e-3;
const RIGID = face.std.flatMap((std, i) => (Number.isFinite(std) ? [i] : [])); // landmarks with a fixed place
const FACE = RIGID.map((i) => face.points[i] as unknown as Vector);
const WEIGHTS = RIGID.map((i) => 1 / face.std[i] ** 2);
const TOTAL = WEIGHTS.reduce((a, b) => a + b, 0);

/**
 * Return yaw, pitch and roll of a face; null for a landmark scheme other than that of the 3D face.
 * The image's center is only where the steps start from, as in Python.
 */
export function headPose(points: readonly Point[], scheme: string, image: Pixels): Pose | null {
  if (scheme !== SCHEME) return null;
  const [x0, y0] = [(image.width - 1) / 2, (image.height - 1) / 2];
  const known = RIGID.map((i): Point => [points[i][0] - x0, points[i][1] - y0]);
  const fits = START_YAWS.map((yaw) => descend(start(known, yaw), known));
  const [x, y, z] = fits.reduce((a, b) => (b.cost < a.cost ? b : a)).rotation;
  return {
    yaw: degrees(Math.atan2(-x[2], z[2])),
    pitch: degrees(Math.asin(Math.min(Math.max(y[2], -1), 1))),
    roll: degrees(Math.atan2(y[0], y[1])),
  };
}

/** Return the rotation of yaw, pitch and roll in degrees. */
export function rotationOf({ yaw, pitch, roll }: Pose): Matrix {
  const [cy, cp, cr] = [yaw, pitch, roll].map((v) => Math.cos(radians(v)));
  const [sy, sp, sr] = [yaw, pitch, roll].map((v) => Math.sin(radians(v)));
  const yawed: Matrix = [[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]];
  const pitched: Matrix = [[1, 0, 0], [0, cp, sp], [0, -sp, cp]];
  const rolled: Matrix = [[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]];
  return product(product(yawed, pitched), rolled);
}

/** Return roll, shift and scale that fit best at a yaw. */
function start(points: readonly Point[], yaw: number): Fit {
  const turned = FACE.map((v) => transform(rotationOf({ yaw, pitch: 0, roll: 0 }), v));
  const mean = (values: number[]) => values.reduce((sum, v, i) => sum + WEIGHTS[i] * v, 0) / TOTAL;
  const source: Point = [mean(turned.map((v) => v[0])), mean(turned.map((v) => v[1]))];
  const target: Point = [mean(points.map((p) => p[0])), mean(points.map((p) => p[1]))];
  const s = turned.map((v) => [v[0] - source[0], v[1] - source[1]]);
  const t = points.map((p) => [p[0] - target[0], p[1] - target[1]]);
  const norm = mean(s.map(([x, y]) => x * x + y * y));
  const cos = mean(s.map(([x, y], i) => x * t[i][0] + y * t[i][1])) / norm;
  const sin = mean(s.map(([x, y], i) => x * t[i][1] - y * t[i][0])) / norm;
  const scale = Math.hypot(cos, sin);
  const tilted = rotationOf({ yaw: 0, pitch: 0, roll: degrees(Math.atan2(sin, cos)) });
  const moved = transform(tilted, [source[0], source[1], 0]);
  return {
    rotation: product(tilted, rotationOf({ yaw, pitch: 0, roll: 0 })),
    shift: [target[0] / scale - moved[0], target[1] / scale - moved[1]],
    scale,
    cost: 0,
  };
}

/** Return the fit after some damped Gauss-Newton steps. */
function descend(fit: Fit, points: readonly Point[]): Fit {
  for (let step = 0; step < STEPS; step++) {
    const normal = Array.from({ length: 6 }, () => new Array<number>(7).fill(0)); // the last column: residuals
    FACE.forEach((vertex, i) => {
      const [x, y, z] = transform(fit.rotation, vertex);
      const projected: Point = [x + fit.shift[0], y + fit.shift[1]];
      // Derivatives by a rotation after the pose's own (3), the shift (2) and the logarithm of the scale.
      const derivatives = [
        [0, z, -y, 1, 0, projected[0]],
        [-z, 0, x, 0, 1, projected[1]],
      ];
      derivatives.forEach((row, axis) => {
        const residual = points[i][axis] / fit.scale - projected[axis];
        for (let a = 0; a < 6; a++) {
          for (let b = 0; b < 6; b++) normal[a][b] += WEIGHTS[i] * row[a] * row[b];
          normal[a][6] += WEIGHTS[i] * row[a] * residual;
        }
      });
    });
    normal.forEach((row, a) => (row[a] += DAMPING * row[a] + Number.EPSILON));
    const change = solve(normal);
    fit = {
      rotation: product(rodrigues([change[0], change[1], change[2]]), fit.rotation),
      shift: [fit.shift[0] + change[3], fit.shift[1] + change[4]],
      scale: fit.scale * Math.exp(Math.min(Math.max(change[5], -1), 1)),
      cost: 0,
    };
  }
  let cost = 0;
  FACE.forEach((vertex, i) => {
    const [x, y] = transform(fit.rotation, vertex);
    const dx = points[i][0] / fit.scale - x - fit.shift[0];
    const dy = points[i][1] / fit.scale - y - fit.shift[1];
    cost += WEIGHTS[i] * (dx * dx + dy * dy);
  });
  return { ...fit, cost };
}

/** Solve a linear system, the last column of which is the right side, by Gauss-Jordan elimination. */
function solve(rows: number[][]): number[] {
  const count = rows.length;
  for (let i = 0; i < count; i++) {
    let pivot = i;
    for (let j = i + 1; j < count; j++) if (Math.abs(rows[j][i]) > Math.abs(rows[pivot][i])) pivot = j;
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    for (let j = 0; j < count; j++) {
      if (j === i) continue;
      const factor = rows[j][i] / rows[i][i];
      for (let k = i; k <= count; k++) rows[j][k] -= factor * rows[i][k];
    }
  }
  return rows.map((row, i) => row[count] / row[i]);
}

function rodrigues(vector: Vector): Matrix {
  const angle = Math.max(Math.hypot(...vector), 1e-12);
  const [x, y, z] = vector.map((v) => v / angle);
  const [s, t] = [Math.sin(angle), 1 - Math.cos(angle)];
  return [
    [1 - t * (y * y + z * z), t * x * y - s * z, t * x * z + s * y],
    [t * x * y + s * z, 1 - t * (x * x + z * z), t * y * z - s * x],
    [t * x * z - s * y, t * y * z + s * x, 1 - t * (x * x + y * y)],
  ];
}

function transform(matrix: Matrix, [x, y, z]: Vector): Vector {
  return matrix.map((row) => row[0] * x + row[1] * y + row[2] * z) as unknown as Vector;
}

function product(a: Matrix, b: Matrix): Matrix {
  const columns = [0, 1, 2].map((k) => [b[0][k], b[1][k], b[2][k]] as const);
  return a.map((row) => columns.map((c) => row[0] * c[0] + row[1] * c[1] + row[2] * c[2])) as unknown as Matrix;
}

function radians(angle: number): number {
  return (angle * Math.PI) / 180;
}

function degrees(angle: number): number {
  return (angle * 180) / Math.PI;
}
