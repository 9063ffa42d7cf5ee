// Drawing of boxes, connections, points, numbers and head pose; sizes scale with the face.
import { LOW_QUALITY } from "./confidence";
import { tightBox, type Point } from "./geometry";
import type { Face } from "./landmarker";
import type { Scheme } from "./metadata";
import { rotationOf } from "./pose";

export interface DrawOptions {
  readonly points: boolean;
  readonly edges: boolean;
  readonly numbers: boolean;
  readonly boxes: boolean;
  readonly pose: boolean;
  readonly mirror: boolean;
}

export interface Scene {
  readonly image: ImageBitmap;
  readonly faces: readonly Face[];
  readonly scheme: Scheme;
  /** Name of the model. */
  readonly model: string;
}

export type Level = "high" | "medium" | "low";

const COLORS: Readonly<Record<Level, string>> = { high: "#2dd4bf", medium: "#fbbf24", low: "#fb7185" };
const EDGE_COLOR = "rgb(186 230 253 / 0.85)";
const RIM_COLOR = "rgb(4 30 28 / 0.75)";
const AXES = [
  { column: 0, sign: 1, color: "#fb7185" }, // to the face's side
  { column: 1, sign: -1, color: "#a3e635" }, // up
  { column: 2, sign: -1, color: "#38bdf8" }, // forward
] as const;
const NOSE_TIP = 30; // in the scheme that has a head pose

/** Return the class of a confidence or quality. */
export function level(confidence: number | null): Level {
  if (confidence === null || confidence >= 0.8) return "high";
  return confidence >= 0.5 ? "medium" : "low";
}

/** Draw a scene over the whole canvas. `ratio` is the pixels of the canvas per pixel of the screen. */
export function drawScene(context: CanvasRenderingContext2D, scene: Scene, options: DrawOptions, ratio: number): void {
  const { canvas } = context;
  const scale = canvas.width / scene.image.width;
  const place = ([x, y]: Point): Point => {
    const across = (x + 0.5) * scale;
    return [options.mirror ? canvas.width - across : across, (y + 0.5) * scale];
  };
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.save();
  if (options.mirror) context.setTransform(-1, 0, 0, 1, canvas.width, 0);
  context.imageSmoothingQuality = "medium";
  context.drawImage(scene.image, 0, 0, canvas.width, canvas.height);
  context.restore();
  context.lineJoin = context.lineCap = "round";
  scene.faces.forEach((face, i) => drawFace(context, face, i, scene.scheme, options, place, scale, ratio));
}

function drawFace(
  context: CanvasRenderingContext2D,
  face: Face,
  index: number,
  scheme: Scheme,
  options: DrawOptions,
  place: (point: Point) => Point,
  scale: number,
  ratio: number,
): void {
  const [x0, y0, x1, y1] = tightBox(face.points);
  const side = Math.max(x1 - x0, y1 - y0) * scale;
  const width = Math.min(Math.max(side / 190, 0.8 * ratio), 12 * ratio);
  const isLow = face.quality !== null && face.quality < LOW_QUALITY;
  const points = face.points.map(place);
  context.setLineDash(isLow ? [4 * width, 4 * width] : []);
  if (options.boxes) drawBox(context, face, index, isLow, place, width, ratio);
  if (options.edges) {
    context.lineWidth = width;
    context.strokeStyle = isLow ? COLORS.low : EDGE_COLOR;
    context.beginPath();
    for (const chain of scheme.edges) chain.forEach((i, k) => (k ? context.lineTo(...points[i]) : context.moveTo(...points[i])));
    context.stroke();
  }
  context.setLineDash([]);
  const radius = Math.min(Math.max(side / 115, 0.9 * ratio), 14 * ratio);
  if (options.points) drawPoints(context, points, face, radius);
  if (options.numbers) drawNumbers(context, points, radius, side, ratio);
  if (options.pose && face.pose) drawAxes(context, face, points[NOSE_TIP], side * 0.45, width * 2, options.mirror);
}

function drawBox(
  context: CanvasRenderingContext2D,
  face: Face,
  index: number,
  isLow: boolean,
  place: (point: Point) => Point,
  width: number,
  ratio: number,
): void {
  const [a, b] = [place([face.box[0], face.box[1]]), place([face.box[2], face.box[3]])];
  const [left, right] = [Math.min(a[0], b[0]), Math.max(a[0], b[0])];
  const color = isLow ? COLORS.low : "rgb(255 255 255 / 0.9)";
  context.lineWidth = width * 1.2;
  context.strokeStyle = color;
  context.shadowColor = "rgb(0 0 0 / 0.45)";
  context.shadowBlur = 3 * ratio;
  context.beginPath();
  context.roundRect(left, a[1], right - left, b[1] - a[1], Math.min(10 * ratio, (right - left) / 8));
  context.stroke();
  context.shadowBlur = 0;
  const size = Math.min(Math.max((right - left) / 14, 10 * ratio), 40 * ratio);
  const text = face.quality === null ? `${index + 1}` : `${index + 1} · ${face.quality.toFixed(2)}`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const [x, y] = [left + size * 0.1, Math.max(a[1] - size * 1.55, 0)];
  context.fillStyle = "rgb(0 0 0 / 0.55)";
  context.beginPath();
  context.roundRect(x, y, context.measureText(text).width + size * 0.9, size * 1.4, size * 0.5);
  context.fill();
  context.fillStyle = isLow ? COLORS.low : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, x + size * 0.45, y + size * 0.74);
}

function drawPoints(context: CanvasRenderingContext2D, points: readonly Point[], face: Face, radius: number): void {
  points.forEach(([x, y], i) => {
    context.fillStyle = RIM_COLOR;
    context.beginPath();
    context.arc(x, y, radius * 1.45, 0, 2 * Math.PI);
    context.fill();
    context.fillStyle = COLORS[level(face.confidence?.[i] ?? null)];
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  });
}

function drawNumbers(
  context: CanvasRenderingContext2D,
  points: readonly Point[],
  radius: number,
  side: number,
  ratio: number,
): void {
  const size = Math.min(Math.max(side / 36, 8 * ratio), 60 * ratio);
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "alphabetic";
  context.lineWidth = size / 5;
  context.strokeStyle = "rgb(0 0 0 / 0.75)";
  context.fillStyle = "#fff";
  points.forEach(([x, y], i) => {
    context.strokeText(`${i}`, x + radius * 1.4, y - radius * 1.2);
    context.fillText(`${i}`, x + radius * 1.4, y - radius * 1.2);
  });
}

function drawAxes(
  context: CanvasRenderingContext2D,
  face: Face,
  [x, y]: Point,
  length: number,
  width: number,
  mirror: boolean,
): void {
  const rotation = rotationOf(face.pose!);
  for (const { column, sign, color } of AXES) {
    const dx = sign * rotation[0][column] * length * (mirror ? -1 : 1);
    const dy = sign * rotation[1][column] * length;
    for (const [stroke, thickness] of [["rgb(0 0 0 / 0.5)", width * 2], [color, width]] as const) {
      context.strokeStyle = stroke;
      context.lineWidth = thickness;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + dx, y + dy);
      context.stroke();
    }
  }
}
