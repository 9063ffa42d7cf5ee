// The page: what the user chooses, and what is shown.
import { Camera, FrameRate } from "./camera";
import { DETECTOR_SIZE, Engines, hasGpu } from "./client";
import { drawScene, type DrawOptions, type Scene } from "./draw";
import type { Loaded, Result } from "./engine";
import { counted, describe, showFaces } from "./panel";
import { decodePhoto } from "./photo";
import { saveImage, saveJson } from "./save";

// A module with one SIMD instruction, which browsers without SIMD refuse.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);
const NO_WASM = "This browser has no WebAssembly with SIMD, which the networks need: update it or use another one.";
const ANNOUNCE_EVERY = 3000;

function find<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const stage = find("stage");
const canvas = find<HTMLCanvasElement>("canvas");
const context = canvas.getContext("2d")!;
const statusLine = find("status");
const alertLine = find("alert");
const cameraButton = find<HTMLButtonElement>("camera");
const settings = find<HTMLFormElement>("settings");
const file = find<HTMLInputElement>("file");

const engines = new Engines();
let loading: Promise<Loaded>;
let loaded: Loaded | undefined;
let scene: Scene | undefined;
let name = "image";
let camera: Camera | undefined;
/** Counts what the user has asked for: answers to earlier requests are dropped. */
let request = 0;
/** Settles when the last search of a photo has ended. */
let running: Promise<void> = Promise.resolve();

function field(key: string): HTMLInputElement {
  return settings.elements.namedItem(key) as HTMLInputElement;
}

function drawOptions(): DrawOptions {
  const shows = (key: string) => field(key).checked;
  return {
    points: shows("points"),
    edges: shows("edges"),
    numbers: shows("numbers"),
    boxes: shows("boxes"),
    pose: shows("pose"),
    mirror: camera !== undefined && camera.isFront && shows("mirror"),
  };
}

function detectorSize(): number {
  return field("small").checked ? 2 * DETECTOR_SIZE : DETECTOR_SIZE;
}

function showError(error: unknown): void {
  alertLine.textContent = error instanceof Error ? error.message : String(error);
  alertLine.hidden = false;
}

function setBusy(text: string): void {
  statusLine.textContent = text;
  find("progress").hidden = false;
}

function setIdle(text: string): void {
  if (statusLine.textContent !== text) statusLine.textContent = text;
  find("progress").hidden = true;
}

function draw(): void {
  if (!scene || !scene.image.width) return; // the bitmap is with the worker
  const { width, height } = scene.image;
  const scale = Math.min(stage.clientWidth / width, Math.max(innerHeight * 0.72, 300) / height, 4);
  const ratio = devicePixelRatio || 1;
  const size = [Math.round(width * scale * ratio), Math.round(height * scale * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) {
    [canvas.width, canvas.height] = size;
    canvas.style.width = `${width * scale}px`;
    canvas.style.height = `${height * scale}px`;
  }
  drawScene(context, scene, drawOptions(), ratio);
}

function show(result: Result, isLive: boolean): void {
  if (scene && scene.image !== result.bitmap) scene.image.close();
  scene = { image: result.bitmap, faces: result.faces, scheme: loaded!.scheme, model: result.model };
  canvas.hidden = false;
  find("empty").hidden = true;
  stage.classList.remove("is-empty");
  draw();
  if (!isLive) canvas.ariaLabel = describe(result.faces);
  showFaces(find("faces"), find("faces-note"), result.faces, false);
  find<HTMLButtonElement>("save-image").disabled = find<HTMLButtonElement>("save-json").disabled = false;
}

function summary(result: Result): string {
  const where = engines.isOnGpu ? "graphics card" : loaded!.threads > 1 ? `${loaded!.threads} threads` : "1 thread";
  const hint = result.faces.length ? "" : ": try a larger face, or small faces in the options";
  return `${counted(result.faces.length)} in ${Math.round(result.time)} ms (${where})${hint}`;
}

/** Load the chosen model. */
function loadModel(): Promise<Loaded> {
  const model = (settings.elements.namedItem("model") as RadioNodeList).value;
  setBusy("Loading the model …");
  loading = engines.load(model, field("gpu").checked).then(({ loaded: result, problem }) => {
    loaded = result;
    if (problem) {
      field("gpu").checked = false;
      showError(problem);
    }
    find("model-note").textContent = `${result.scheme.landmarks} landmarks from ${result.inputSize} × ${result.inputSize} pixels`;
    if (!scene) setIdle("Ready");
    return result;
  });
  return loading;
}

/** Load the model again after a change of settings, and run it on the image again. */
async function reload(): Promise<void> {
  alertLine.hidden = true;
  try {
    await loadModel();
    if (camera) setIdle("Camera");
    else await rerun();
  } catch (error) {
    setIdle("");
    showError(error);
  }
}

/** Find the faces in a bitmap, and show them unless the user has asked for something else since. */
function runPhoto(bitmap: ImageBitmap, id: number): Promise<void> {
  const run = runPhotoNow(bitmap, id);
  running = run.catch(() => undefined);
  return run;
}

/** Search the image that is shown again, after a change of settings. */
async function rerun(): Promise<void> {
  const id = request;
  await running; // the bitmap is with the worker until then
  if (id === request && scene?.image.width && !camera) await runPhoto(scene.image, id);
}

async function runPhotoNow(bitmap: ImageBitmap, id: number): Promise<void> {
  await loading;
  if (id !== request) return;
  setBusy("Searching for faces …");
  const result = await engines.current.photo(bitmap, detectorSize());
  if (id !== request) {
    if (scene?.image === bitmap) scene = undefined;
    return result.bitmap.close();
  }
  show(result, false);
  setIdle(summary(result));
}

async function openPhoto(blob: Blob, fileName: string): Promise<void> {
  stopCamera();
  const id = ++request;
  alertLine.hidden = true;
  setBusy("Reading the image …");
  try {
    const bitmap = await decodePhoto(blob, fileName);
    if (id !== request) return bitmap.close();
    name = fileName;
    await runPhoto(bitmap, id);
  } catch (error) {
    if (id !== request) return;
    setIdle("");
    showError(error);
  }
}

function stopCamera(): void {
  camera?.stop();
  camera = undefined;
  find("badge").hidden = true;
  cameraButton.ariaPressed = "false";
  cameraButton.textContent = "Use the camera";
}

async function startCamera(): Promise<void> {
  const id = ++request;
  alertLine.hidden = true;
  setBusy("Starting the camera …");
  try {
    await loading;
    const started = await Camera.start(find<HTMLVideoElement>("video"));
    if (id !== request) return started.stop();
    camera = started;
    name = "camera";
    cameraButton.ariaPressed = "true";
    cameraButton.textContent = "Stop the camera";
    await follow(started);
  } catch (error) {
    if (id !== request) return;
    stopCamera();
    setIdle("");
    showError(error);
  }
}

/** Show the faces of each frame until the camera stops. */
async function follow(live: Camera): Promise<void> {
  const rate = new FrameRate();
  const badge = find("badge");
  let announced = -Infinity;
  for (let isFirst = true; camera === live && live.isActive; isFirst = false) {
    await loading;
    const result = await engines.current.frame(await live.next(), detectorSize(), isFirst);
    if (camera !== live) return result.bitmap.close();
    show(result, true);
    badge.hidden = false;
    badge.textContent = `${rate.count().toFixed(0)} frames a second · ${Math.round(result.time)} ms`;
    find("progress").hidden = true;
    if (performance.now() - announced > ANNOUNCE_EVERY) {
      announced = performance.now();
      const text = `Camera: ${counted(result.faces.length).toLowerCase()}`;
      setIdle(text); // screen readers read it only when it changes
      canvas.ariaLabel = text;
    }
  }
  if (camera === live) {
    stopCamera();
    setIdle("The camera has stopped");
  }
}

function imageOf(transfer: DataTransfer | null): File | undefined {
  return [...(transfer?.files ?? [])][0];
}

function listen(): void {
  find("choose").onclick = () => file.click();
  file.onchange = () => {
    const chosen = file.files?.[0];
    if (chosen) void openPhoto(chosen, chosen.name);
    file.value = "";
  };
  stage.onclick = () => stage.classList.contains("is-empty") && file.click();
  cameraButton.onclick = () => {
    if (!camera) return void startCamera();
    request++;
    stopCamera();
    setIdle("The camera has stopped");
  };
  find("example").onclick = async () => {
    const response = await fetch("example.jpg");
    void openPhoto(await response.blob(), "example.jpg");
  };
  find("save-image").onclick = () => scene && saveImage(scene, drawOptions(), name).catch(showError);
  find("save-json").onclick = () => scene && saveJson(scene, name);
  document.addEventListener("paste", (event) => {
    const pasted = imageOf(event.clipboardData);
    if (pasted) void openPhoto(pasted, pasted.name);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("is-over");
  });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => stage.classList.remove("is-over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const dropped = imageOf(event.dataTransfer);
    if (dropped) void openPhoto(dropped, dropped.name);
  });
  settings.onsubmit = (event) => event.preventDefault();
  settings.onchange = ({ target }) => {
    const key = (target as HTMLInputElement).name;
    if (key === "model" || key === "gpu") void reload();
    else if (key === "small") void rerun().catch(showError);
    else draw();
  };
  new ResizeObserver(draw).observe(stage);
}

async function main(): Promise<void> {
  stage.classList.add("is-empty");
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    statusLine.textContent = "";
    for (const button of document.querySelectorAll<HTMLButtonElement>(".toolbar button")) button.disabled = true;
    return showError(NO_WASM);
  }
  listen();
  field("gpu").disabled = !hasGpu();
  await reload();
}

void main();
