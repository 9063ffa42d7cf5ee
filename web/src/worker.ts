// The networks on the processor: WebAssembly with SIMD, and threads where the page is isolated.
import * as ort from "onnxruntime-web/wasm";
import { startEngine } from "./engine";

startEngine(ort, "ort/ort-wasm-simd-threaded", "wasm");
