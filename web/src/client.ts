// The page's side of the worker, and the choice between processor and graphics card.
import type { Loaded, Request, Response, Result } from "./engine";
import { cropRegion, type CropConfig } from "./geometry";

type Waiting = { readonly resolve: (value: never) => void; readonly reject: (error: Error) => void };

export const DETECTOR_SIZE = 640; // longer side of the image that is searched, in pixels
const MAX_DIFFERENCE = 0.1; // pixels of the crop

export class EngineClient {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;

  constructor(script: string) {
    this.worker = new Worker(new URL(script, import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }: MessageEvent<Response>) => {
      const { resolve, reject } = this.waiting.get(data.id)!;
      this.waiting.delete(data.id);
      if ("error" in data) reject(new Error(data.error));
      else resolve(data.value as never);
    };
    this.worker.onerror = () => {
      for (const { reject } of this.waiting.values()) reject(new Error("The page cannot run here: reload it."));
      this.waiting.clear();
    };
  }

  load(model: string): Promise<Loaded> {
    return this.send({ kind: "load", model });
  }

  photo(bitmap: ImageBitmap, detectorSize: number): Promise<Result> {
    return this.send({ kind: "photo", bitmap, detectorSize }, [bitmap]);
  }

  frame(bitmap: ImageBitmap, detectorSize: number, isFirst: boolean): Promise<Result> {
    return this.send({ kind: "frame", bitmap, detectorSize, isFirst }, [bitmap]);
  }

  close(): void {
    this.worker.terminate();
  }

  private send<T>(request: Request, transfer: Transferable[] = []): Promise<T> {
    const id = ++this.lastId;
    return new Promise<T>((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as Waiting["resolve"], reject });
      this.worker.postMessage({ id, request }, transfer);
    });
  }
}

/** Whether the browser may be able to use the graphics card. */
export function hasGpu(): boolean {
  return "gpu" in navigator && "Suspending" in WebAssembly;
}

/** Runs a model on the processor, or on the graphics card where that gives the same points, and is faster. */
export class Engines {
  private readonly processor = new EngineClient("worker.js");
  private gpu: EngineClient | null = null;
  private active: EngineClient = this.processor;

  get isOnGpu(): boolean {
    return this.active !== this.processor;
  }

  get current(): EngineClient {
    return this.active;
  }

  /** Load a model; if the graphics card is wanted and cannot be used, say why. */
  async load(model: string, wantsGpu: boolean): Promise<{ loaded: Loaded; problem: string | null }> {
    this.active = this.processor;
    const loaded = await this.processor.load(model);
    if (!wantsGpu) return { loaded, problem: null };
    const problem = await this.tryGpu(loaded).catch((error: Error) => `The graphics card failed (${error.message})`);
    if (problem !== null) {
      this.gpu?.close();
      this.gpu = null;
      return { loaded, problem: `${problem}: the processor is used.` };
    }
    this.active = this.gpu!;
    return { loaded, problem: null };
  }

  private async tryGpu(loaded: Loaded): Promise<string | null> {
    if (!(await navigator.gpu.requestAdapter())) return "The browser cannot use a graphics card here";
    this.gpu ??= new EngineClient("worker-gpu.js");
    await this.gpu.load(loaded.name);
    const example = await fetch("example.jpg").then((response) => response.blob());
    const results: Result[] = [];
    for (const client of [this.processor, this.gpu]) {
      await client.photo(await createImageBitmap(example), DETECTOR_SIZE); // the first run compiles
      results.push(await client.photo(await createImageBitmap(example), DETECTOR_SIZE));
    }
    const [onProcessor, onGpu] = results;
    const difference = maxDifference(onProcessor, onGpu, loaded);
    if (difference > MAX_DIFFERENCE) return `The graphics card's points differ by ${difference.toFixed(2)} pixels`;
    return onGpu.time > onProcessor.time ? "The graphics card is slower than the processor" : null;
  }
}

/** Return the largest distance between the points of two results, in pixels of the crop. */
function maxDifference(a: Result, b: Result, { crop, inputSize }: { crop: CropConfig; inputSize: number }): number {
  if (!a.faces.length || a.faces.length !== b.faces.length) return Infinity;
  const distances = a.faces.flatMap((face, i) => {
    const [x0, , x1] = cropRegion(face.cropBox, crop, a.width, a.height);
    return face.points.map(
      ([x, y], k) => (Math.hypot(x - b.faces[i].points[k][0], y - b.faces[i].points[k][1]) / (x1 - x0)) * inputSize,
    );
  });
  return Math.max(...distances);
}
