// The landmark network on the graphics card: WebGPU. Needs JavaScript Promise Integration, which keeps the
// file small enough for the Python package.
import * as ort from "onnxruntime-web/jspi";
import { startEngine } from "./engine";

startEngine(ort, "ort/ort-wasm-simd-threaded.jspi", "webgpu");
