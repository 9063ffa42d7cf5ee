// Faces of a camera: the next crop is cut around the landmarks of the last frame, and the detector runs only
// now and then, or when a face is lost (src/pipnet/video/tracker.py, without its smoothing). A track of low
// quality that the detector does not confirm is lost.
import { LOW_QUALITY } from "./confidence";
import { boxIou, type Box, type Pixels } from "./geometry";
import { nextCropBox, type Face, type Landmarker, type Target } from "./landmarker";

const DETECT_EVERY = 25;
const MIN_SCORE = 0.2;
const MIN_SIDE = 8;
const MIN_IOU_NEW = 0.3;
const MIN_IOU_NEXT = 0.2;
const MIN_IOU_MERGED = 0.6;

interface Track extends Target {
  /** Whether the last run of the detector found it. */
  readonly isConfirmed: boolean;
}

export class FaceTracker {
  private tracks: Track[] = [];
  private sinceDetection = DETECT_EVERY;

  constructor(private readonly landmarker: Landmarker) {}

  /** Return the faces of the next frame. */
  async run(image: Pixels, detectorSize: number): Promise<Face[]> {
    this.sinceDetection++;
    const isDetected = !this.tracks.length || this.sinceDetection >= DETECT_EVERY;
    if (isDetected) await this.addDetections(image, detectorSize);
    let { faces, isLost } = await this.follow(image);
    if (isLost && !isDetected) {
      await this.addDetections(image, detectorSize);
      ({ faces } = await this.follow(image));
    }
    return faces;
  }

  private async addDetections(image: Pixels, detectorSize: number): Promise<void> {
    this.sinceDetection = 0;
    this.tracks = this.tracks.map((track) => ({ ...track, isConfirmed: false }));
    for (const found of await this.landmarker.detect(image, detectorSize)) {
      const known = this.tracks.findIndex((track) => boxIou(track.cropBox, found.cropBox) >= MIN_IOU_NEW);
      if (known < 0) this.tracks.push({ ...found, isConfirmed: true });
      else this.tracks[known] = { ...this.tracks[known], score: found.score, isConfirmed: true };
    }
  }

  /** Predict all tracks, and keep those that are still faces. */
  private async follow(image: Pixels): Promise<{ faces: Face[]; isLost: boolean }> {
    const predicted = await this.landmarker.predict(image, this.tracks);
    const boxes: Box[] = [];
    const tracks: Track[] = [];
    const faces: Face[] = [];
    predicted.forEach((face, i) => {
      const next = nextCropBox(face);
      const isLow = face.quality !== null && face.quality < LOW_QUALITY;
      if (isLow && !this.tracks[i].isConfirmed) return;
      if (!isFace(face, next) || boxes.some((box) => boxIou(box, next) >= MIN_IOU_MERGED)) return;
      boxes.push(next);
      faces.push(face);
      tracks.push({ ...this.tracks[i], cropBox: next, box: this.landmarker.detectorBox(next) });
    });
    const isLost = tracks.length < this.tracks.length;
    this.tracks = tracks;
    return { faces, isLost };
  }
}

function isFace(face: Face, next: Box): boolean {
  const score = face.scores.reduce((a, b) => a + b, 0) / face.scores.length;
  const side = Math.min(next[2] - next[0], next[3] - next[1]);
  return score >= MIN_SCORE && side >= MIN_SIDE && boxIou(face.cropBox, next) >= MIN_IOU_NEXT;
}
