// The face detector, run on a reduced copy of the image; its graph pads, decodes and suppresses overlaps.
import type { InferenceSession, Tensor, TypedTensor } from "onnxruntime-common";
import type { Box, Pixels, Point } from "./geometry";
import { resize } from "./resample";

export interface Detection {
  readonly box: Box;
  readonly score: number;
  /** Right eye, left eye, nose tip, right and left corner of the mouth. */
  readonly points: readonly Point[];
}

export type MakeTensor = (type: "uint8", data: Uint8Array, dims: readonly number[]) => TypedTensor<"uint8">;

export const THRESHOLD = 0.5;
// As in src/pipnet/inference/detectors: places that may be faces count where no face is certain.
export const CERTAIN = 0.8;
export const MIN_CANDIDATE = 0.3;

/** Return the faces in an image; its longer side is reduced to `size` pixels if it is longer. */
export async function detect(
  session: InferenceSession,
  makeTensor: MakeTensor,
  image: Pixels,
  size: number,
  threshold: number,
): Promise<Detection[]> {
  const factor = Math.max(Math.max(image.width, image.height) / size, 1);
  const side = (length: number) => Math.max(roundHalfEven(length / factor), 1);
  const reduced = factor > 1 ? resize(image, side(image.width), side(image.height)) : image;
  const input = makeTensor("uint8", reduced.data, [1, reduced.height, reduced.width, 3]);
  const outputs = await session.run({ image: input });
  const boxes = floats(outputs.boxes);
  const scores = floats(outputs.scores);
  const points = floats(outputs.points);
  const limit = scores.some((score) => score >= CERTAIN) ? THRESHOLD : threshold;
  // Pixel k of the copy covers the pixels of the image from k * factor - 0.5 on.
  const enlarge = (v: number) => Math.fround((v + 0.5) * factor - 0.5);
  return [...scores.keys()]
    .filter((i) => scores[i] >= limit)
    .map((i) => ({
      box: [0, 1, 2, 3].map((k) => enlarge(boxes[4 * i + k])) as unknown as Box,
      score: scores[i],
      points: [0, 1, 2, 3, 4].map((k) => [10 * i + 2 * k, 10 * i + 2 * k + 1].map((p) => enlarge(points[p]))) as unknown as Point[],
    }));
}

export function floats(tensor: Tensor): Float32Array {
  return tensor.data as Float32Array;
}

/** Round to the nearest integer, halves to the even one, as Python does. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
