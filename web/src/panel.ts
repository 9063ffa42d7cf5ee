// The list of faces, and the words for the status line.
import { LOW_QUALITY } from "./confidence";
import { level } from "./draw";
import type { Face } from "./landmarker";
import type { Pose } from "./pose";

const MAX_ROWS = 50;

/** Show the faces in the list; rows are reused, so that a camera does not rebuild them. */
export function showFaces(list: HTMLElement, note: HTMLElement, faces: readonly Face[], isEmpty: boolean): void {
  const shown = faces.slice(0, MAX_ROWS);
  while (list.children.length > shown.length) list.lastElementChild!.remove();
  while (list.children.length < shown.length) list.append(makeRow());
  shown.forEach((face, i) => fillRow(list.children[i] as HTMLElement, face, i));
  note.hidden = faces.length > 0 && faces.length <= MAX_ROWS;
  if (faces.length > MAX_ROWS) note.textContent = `and ${faces.length - MAX_ROWS} more, in the saved files`;
  else if (isEmpty) note.textContent = "Quality, confidence and head pose of each face appear here.";
  else note.textContent = "No face in this image.";
}

/** Return the number of faces in words. */
export function counted(faces: number): string {
  if (!faces) return "No face found";
  return faces === 1 ? "1 face" : `${faces} faces`;
}

/** Return what a picture of these faces shows, for screen readers. */
export function describe(faces: readonly Face[]): string {
  const shown = faces.slice(0, 5).map((face, i) => {
    const quality = face.quality === null ? "" : ` quality ${face.quality.toFixed(2)}`;
    const pose = face.pose ? `, ${poseWords(face.pose)}` : "";
    return `face ${i + 1}:${quality}${pose}`;
  });
  return faces.length ? `${counted(faces.length)}; ${shown.join("; ")}` : "No face found";
}

function poseWords({ yaw, pitch, roll }: Pose): string {
  return `yaw ${signed(yaw)}, pitch ${signed(pitch)}, roll ${signed(roll)}`;
}

function signed(degrees: number): string {
  const rounded = Math.round(degrees);
  return `${rounded > 0 ? "+" : rounded < 0 ? "−" : ""}${Math.abs(rounded)}°`;
}

function makeRow(): HTMLLIElement {
  const row = document.createElement("li");
  row.append(
    make("strong", ""),
    make("span", "quality"),
    make("div", "bar"),
    make("span", "facts"),
  );
  row.children[2].append(document.createElement("span"));
  row.children[2].setAttribute("aria-hidden", "true");
  return row;
}

function make(tag: string, className: string): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  return element;
}

function fillRow(row: HTMLElement, face: Face, index: number): void {
  const [title, quality, bar, facts] = [...row.children] as HTMLElement[];
  title.textContent = `Face ${index + 1}`;
  quality.textContent = face.quality === null ? "not calibrated" : `quality ${face.quality.toFixed(2)}`;
  bar.hidden = face.quality === null;
  bar.className = `bar ${level(face.quality)}`;
  (bar.firstElementChild as HTMLElement).style.width = `${100 * (face.quality ?? 0)}%`;
  const isLow = face.quality !== null && face.quality < LOW_QUALITY;
  facts.textContent = [
    ...(face.pose ? [poseWords(face.pose)] : []),
    `detection ${face.detectionScore.toFixed(2)}`,
    ...(isLow ? ["do not rely on these points"] : []),
  ]
    .map((part) => part.replaceAll(" ", "\u00a0"))
    .join(" · ");
}
