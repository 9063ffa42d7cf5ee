// From an image to landmarks: detect, adapt the boxes, cut crops, predict (src/pipnet/inference/pipeline.py).
import type { InferenceSession } from "onnxruntime-common";
import { estimateErrors } from "./confidence";
import { CERTAIN, MIN_CANDIDATE, THRESHOLD, detect, floats, type Detection, type MakeTensor } from "./detector";
import {
  apply,
  boxToCrop,
  compose,
  cropRegion,
  invert,
  rotateCrop,
  similarityAngle,
  tightBox,
  warp,
  type Box,
  type Pixels,
  type Point,
} from "./geometry";
import { boxAdapter, type ModelMetadata } from "./metadata";
import { headPose, type Pose } from "./pose";

export interface Face {
  readonly box: Box;
  readonly cropBox: Box;
  readonly detectionScore: number;
  readonly points: readonly Point[];
  readonly scores: readonly number[];
  readonly voteStd: readonly number[];
  /** Null if the model is not calibrated. */
  readonly confidence: readonly number[] | null;
  readonly expectedError: readonly number[] | null;
  readonly quality: number | null;
  readonly pose: Pose | null;
}

export interface Model {
  readonly session: InferenceSession;
  readonly metadata: ModelMetadata;
}

/** A face to predict. */
export interface Target {
  readonly cropBox: Box;
  /** The detector's box. */
  readonly box: Box;
  readonly score: number;
  /** Degrees clockwise by which its crop is rotated. */
  readonly angle: number;
}

const BATCH_SIZE = 8;
const MIN_CONFIRMED_SIDE = 20; // pixels, the longer side, as in src/pipnet/inference/pipeline.py
const MIN_LEAN = 20; // degrees, as in src/pipnet/inference/rotation.py
const ARCFACE: readonly Point[] = [
  [38.2946, 51.6963],
  [73.5318, 51.5014],
  [56.0252, 71.7366],
  [41.5493, 92.3655],
  [70.7299, 92.2041],
];

export class Landmarker {
  constructor(
    readonly model: Model,
    private readonly detector: InferenceSession,
    private readonly makeTensor: MakeTensor,
  ) {}

  /** Return the faces in an image and their landmarks. */
  async run(image: Pixels, detectorSize: number): Promise<Face[]> {
    return this.predict(image, await this.detect(image, detectorSize));
  }

  /** Return the faces of which the detector is certain, and those whose landmarks look like a face's. */
  async detect(image: Pixels, detectorSize: number): Promise<Target[]> {
    const isCalibrated = this.model.metadata.calibration !== null;
    const threshold = isCalibrated ? MIN_CANDIDATE : THRESHOLD;
    const detections = await detect(this.detector, this.makeTensor, image, detectorSize, threshold);
    const targets = detections.map((detection) => this.target(detection));
    if (!isCalibrated) return targets;
    const doubtful = targets.filter((target) => target.score < CERTAIN);
    const faces = await this.predict(image, doubtful);
    const isFace = ({ box, score }: Target, { quality }: Face) =>
      Math.max(box[2] - box[0], box[3] - box[1]) >= MIN_CONFIRMED_SIDE &&
      score + (quality ?? 0) >= CERTAIN;
    const dropped = new Set(doubtful.filter((target, i) => !isFace(target, faces[i])));
    return targets.filter((target) => !dropped.has(target));
  }

  private target({ box, score, points }: Detection): Target {
    const [left, top, right, bottom] = boxAdapter(this.model.metadata);
    const [width, height] = [box[2] - box[0], box[3] - box[1]];
    const cropBox: Box = [
      box[0] + left * width,
      box[1] + top * height,
      box[0] + right * width,
      box[1] + bottom * height,
    ];
    const roll = similarityAngle(ARCFACE, points);
    return { cropBox, box, score, angle: Math.abs(roll) > MIN_LEAN ? -roll : 0 };
  }

  /** Return the detector's box that the adapter turns into this crop box. */
  detectorBox(cropBox: Box): Box {
    const [left, top, right, bottom] = boxAdapter(this.model.metadata);
    const width = (cropBox[2] - cropBox[0]) / (right - left);
    const height = (cropBox[3] - cropBox[1]) / (bottom - top);
    const [x, y] = [cropBox[0] - left * width, cropBox[1] - top * height];
    return [x, y, x + width, y + height];
  }

  async predict(image: Pixels, targets: readonly Target[]): Promise<Face[]> {
    const faces: Face[] = [];
    for (let i = 0; i < targets.length; i += BATCH_SIZE) {
      faces.push(...(await this.predictBatch(image, targets.slice(i, i + BATCH_SIZE))));
    }
    return faces;
  }

  private async predictBatch(image: Pixels, targets: readonly Target[]): Promise<Face[]> {
    const { session, metadata } = this.model;
    const size = metadata.input_size;
    const regions = targets.map((t) => cropRegion(t.cropBox, metadata.crop, image.width, image.height));
    const rotations = targets.map((t) => rotateCrop(t.angle, size));
    const crops = new Uint8Array(targets.length * size * size * 3);
    regions.forEach((region, i) => {
      const map = compose(boxToCrop(region, size), rotations[i]);
      crops.set(warp(image, map, size), i * size * size * 3);
    });
    const input = this.makeTensor("uint8", crops, [targets.length, size, size, 3]);
    const outputs = await session.run({ image: input });
    const [landmarks, scores, voteStd] = [outputs.landmarks, outputs.scores, outputs.vote_std].map(floats);
    const count = metadata.scheme.landmarks;
    return targets.map((target, i) => {
      const back = invert(rotations[i]);
      const [x0, y0, x1, y1] = regions[i];
      const points = Array.from({ length: count }, (_, k): Point => {
        const at = 2 * (i * count + k);
        const [x, y] = apply(back, [landmarks[at] * size - 0.5, landmarks[at + 1] * size - 0.5]);
        return [x0 + ((x + 0.5) / size) * (x1 - x0), y0 + ((y + 0.5) / size) * (y1 - y0)];
      });
      const part = (values: Float32Array) => [...values.subarray(i * count, (i + 1) * count)];
      return this.face(image, target, points, part(scores), part(voteStd));
    });
  }

  private face(image: Pixels, target: Target, points: Point[], scores: number[], voteStd: number[]): Face {
    const { metadata } = this.model;
    const errors = estimateErrors(metadata, scores, voteStd);
    const confidence = errors?.confidence ?? null;
    return {
      box: target.box,
      cropBox: target.cropBox,
      detectionScore: target.score,
      points,
      scores,
      voteStd,
      confidence,
      expectedError: errors?.expectedError ?? null,
      quality: confidence && confidence.reduce((a, b) => a + b, 0) / confidence.length,
      pose: headPose(points, metadata.scheme.name, image),
    };
  }
}

/** Return the box to cut the next crop of a face around. */
export function nextCropBox(face: Face): Box {
  return tightBox(face.points);
}
