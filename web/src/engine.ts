// The worker: it holds the networks, so that the page stays responsive while they run.
import type { Env, InferenceSession, InferenceSessionFactory, TensorConstructor } from "onnxruntime-common";
import type { CropConfig, Pixels } from "./geometry";
import { Landmarker, type Face, type Model } from "./landmarker";
import { readMetadata, type Scheme } from "./metadata";
import { FaceTracker } from "./tracker";

export interface Runtime {
  readonly InferenceSession: InferenceSessionFactory;
  readonly Tensor: TensorConstructor;
  readonly env: Env;
}

export type Request =
  | { readonly kind: "load"; readonly model: string }
  | { readonly kind: "photo"; readonly bitmap: ImageBitmap; readonly detectorSize: number }
  | { readonly kind: "frame"; readonly bitmap: ImageBitmap; readonly detectorSize: number; readonly isFirst: boolean };

export interface Loaded {
  readonly name: string;
  readonly scheme: Scheme;
  readonly inputSize: number;
  readonly crop: CropConfig;
  readonly threads: number;
}

export interface Result {
  readonly bitmap: ImageBitmap;
  readonly width: number;
  readonly height: number;
  readonly faces: Face[];
  /** Name of the model. */
  readonly model: string;
  /** Of detection and prediction, in milliseconds. */
  readonly time: number;
}

export type Response = { readonly id: number } & (
  | { readonly value: Loaded | Result }
  | { readonly error: string }
);

const MAX_THREADS = 4;
const STRIP_PIXELS = 2 ** 22;

/** Answer the requests of the page. `files` starts the names of the runtime's files. */
export function startEngine(runtime: Runtime, files: string, provider: "wasm" | "webgpu"): void {
  const { env } = runtime;
  env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
  env.wasm.wasmPaths = { mjs: address(`${files}.mjs`), wasm: address(`${files}.wasm`) };
  env.logLevel = "error";
  const engine = new Engine(runtime, provider);
  let last: Promise<void> = Promise.resolve(); // one request after the other: sessions are not reentrant
  self.onmessage = ({ data: { id, request } }: MessageEvent<{ id: number; request: Request }>) => {
    last = last.then(async () => {
      try {
        const value = await engine.answer(request);
        const transfer = "bitmap" in value ? [value.bitmap] : [];
        self.postMessage({ id, value } satisfies Response, { transfer });
      } catch (error) {
        self.postMessage({ id, error: error instanceof Error ? error.message : String(error) } satisfies Response);
      }
    });
  };
}

function address(path: string): string {
  return new URL(path, self.location.href).href;
}

class Engine {
  private detector: InferenceSession | undefined;
  private landmarker: Landmarker | undefined;
  private tracker: FaceTracker | undefined;
  private readonly canvas = new OffscreenCanvas(1, 1);

  constructor(
    private readonly runtime: Runtime,
    private readonly provider: "wasm" | "webgpu",
  ) {}

  async answer(request: Request): Promise<Loaded | Result> {
    if (request.kind === "load") return this.load(request.model);
    if (!this.landmarker) throw new Error("No model is loaded.");
    const { bitmap, detectorSize } = request;
    const image = readPixels(this.canvas, bitmap);
    const start = performance.now();
    if (request.kind === "frame" && (request.isFirst || !this.tracker)) {
      this.tracker = new FaceTracker(this.landmarker);
    }
    const runner = request.kind === "frame" && this.tracker ? this.tracker : this.landmarker;
    const faces = await runner.run(image, detectorSize);
    const { name: model } = this.landmarker.model.metadata;
    return { bitmap, width: image.width, height: image.height, faces, model, time: performance.now() - start };
  }

  private async load(name: string): Promise<Loaded> {
    this.detector ??= await this.session(await download("models/detectors/pipnet-face.onnx"), "wasm");
    const file = await download(`models/${name}.onnx`);
    const metadata = readMetadata(file);
    const model: Model = { session: await this.session(file, this.provider), metadata };
    await this.landmarker?.model.session.release();
    const { Tensor } = this.runtime;
    this.landmarker = new Landmarker(model, this.detector, (type, data, dims) => new Tensor(type, data, dims));
    this.tracker = undefined;
    return {
      name: metadata.name,
      scheme: metadata.scheme,
      inputSize: metadata.input_size,
      crop: metadata.crop,
      threads: this.runtime.env.wasm.numThreads ?? 1,
    };
  }

  private session(file: Uint8Array, provider: "wasm" | "webgpu"): Promise<InferenceSession> {
    return this.runtime.InferenceSession.create(file, { executionProviders: [provider], logSeverityLevel: 3 });
  }
}

async function download(path: string): Promise<Uint8Array> {
  const response = await fetch(address(path)).catch(() => null);
  if (!response?.ok) throw new Error(`${path} cannot be loaded: reload the page.`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Return the pixels of a bitmap, on white; in strips, because browsers limit the size of a canvas. */
function readPixels(canvas: OffscreenCanvas, bitmap: ImageBitmap): Pixels {
  const { width, height } = bitmap;
  const rows = Math.max(Math.min(height, Math.floor(STRIP_PIXELS / width)), 1);
  if (canvas.width !== width || canvas.height !== rows) [canvas.width, canvas.height] = [width, rows];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("This browser cannot read images in the background: update it.");
  const data = new Uint8Array(width * height * 3);
  for (let top = 0, k = 0; top < height; top += rows) {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const strip = context.getImageData(0, 0, width, Math.min(rows, height - top)).data;
    for (let p = 0; p < strip.length; p += 4, k += 3) {
      data[k] = strip[p];
      data[k + 1] = strip[p + 1];
      data[k + 2] = strip[p + 2];
    }
  }
  return { width, height, data };
}
