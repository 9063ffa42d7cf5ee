// Calibrated confidence: the two regressions of src/pipnet/confidence.py.
import type { Point } from "./geometry";
import type { ModelMetadata } from "./metadata";

export const LOW_QUALITY = 0.25;
const MIN_STD = 1e-4;
const NEAREST = 10;

export interface ErrorEstimate {
  /** Probability that each landmark is off by at most 5 % of the face. */
  readonly confidence: number[];
  /** Expected error of each landmark, as a fraction of the face. */
  readonly expectedError: number[];
}

/** Return both estimates for the landmarks of one face; null if the model is not calibrated. */
export function estimateErrors(
  metadata: ModelMetadata,
  scores: readonly number[],
  voteStd: readonly number[],
): ErrorEstimate | null {
  const { calibration, mean_face } = metadata;
  if (calibration === null) return null;
  const inputs = features(scores, voteStd, mean_face);
  const wrong = linear(calibration.wrong, inputs, scores.length);
  const error = linear(calibration.error, inputs, scores.length);
  return {
    confidence: wrong.map((v) => 1 - 1 / (1 + Math.exp(-v))),
    expectedError: error.map((v) => Math.min(Math.exp(v), 1)),
  };
}

/** Return the features of the regressions, each with a value a landmark. */
function features(
  score: readonly number[],
  voteStd: readonly number[],
  meanFace: readonly Point[],
): (readonly number[])[] {
  const logStd = voteStd.map((v) => Math.log(Math.max(v, MIN_STD)));
  const nearest = meanFace.map((point) => nearestOf(point, meanFace));
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const local = (values: readonly number[]) => nearest.map((indices) => mean(indices.map((i) => values[i])));
  const ofFace = (values: readonly number[]) => values.map(() => mean(values));
  return [
    score,
    logStd,
    logStd.map((v) => v * v),
    logStd.map((v, i) => v * score[i]),
    local(score),
    local(logStd),
    ofFace(score),
    ofFace(logStd),
  ];
}

function nearestOf([x, y]: Point, points: readonly Point[]): number[] {
  const distances = points.map(([u, v]) => Math.hypot(u - x, v - y));
  return [...distances.keys()].sort((a, b) => distances[a] - distances[b] || a - b).slice(0, NEAREST);
}

function linear(coefficients: readonly number[], inputs: (readonly number[])[], landmarks: number): number[] {
  const count = coefficients.length - landmarks; // early models have only the first four features
  return Array.from({ length: landmarks }, (_, i) => {
    let sum = coefficients[count + i];
    for (let k = 0; k < count; k++) sum += coefficients[k] * inputs[k][i];
    return Math.min(Math.max(sum, -500), 500);
  });
}
