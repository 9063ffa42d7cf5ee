// Export: the picture as PNG, the landmarks as the JSON of `pipnet detect --json`, with the head pose.
import { drawScene, type DrawOptions, type Scene } from "./draw";
import type { Face } from "./landmarker";

/** Download the image at its full size, with what is drawn on it. */
export async function saveImage(scene: Scene, options: DrawOptions, name: string): Promise<void> {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [scene.image.width, scene.image.height];
  const context = canvas.getContext("2d");
  if (context) drawScene(context, scene, { ...options, mirror: false }, 1);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("The image is too large for this browser to save.");
  download(blob, `${stem(name)}_landmarks.png`);
}

/** Download the landmarks. */
export function saveJson(scene: Scene, name: string): void {
  const { width, height } = scene.image;
  const table = { image: name, model: scene.model, width, height, faces: scene.faces.map(faceTable) };
  download(new Blob([JSON.stringify(table)], { type: "application/json" }), `${stem(name)}.json`);
}

function faceTable(face: Face): object {
  const rounded = (values: readonly number[], digits: number) => values.map((v) => Number(v.toFixed(digits)));
  return {
    box: rounded(face.box, 2),
    crop_box: rounded(face.cropBox, 2),
    detection_score: Number(face.detectionScore.toFixed(4)),
    quality: face.quality && Number(face.quality.toFixed(4)),
    points: face.points.map((point) => rounded(point, 3)),
    scores: rounded(face.scores, 4),
    confidence: face.confidence && rounded(face.confidence, 4),
    expected_error: face.expectedError && rounded(face.expectedError, 4),
    vote_std: rounded(face.voteStd, 4),
    head_pose: face.pose && rounded([face.pose.yaw, face.pose.pitch, face.pose.roll], 2),
  };
}

function stem(name: string): string {
  return name.replace(/\.[^.]*$/, "") || "image";
}

function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
