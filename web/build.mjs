// Build the page: `node build.mjs` into the Python package, which serves its own models (`pipnet demo`), or
// `node build.mjs FOLDER` with the models, for any web server.
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { parse } from "smol-toml";

const WEB = dirname(fileURLToPath(import.meta.url));
const PACKAGE = join(WEB, "..", "src", "pipnet");
const MODELS = ["pipnet-68.onnx", "pipnet-tiny.onnx", "detectors/pipnet-face.onnx"];
const RUNTIME = ["", ".jspi"].flatMap((variant) =>
  ["mjs", "wasm"].map((suffix) => `ort-wasm-simd-threaded${variant}.${suffix}`),
);

const toml = {
  name: "toml",
  setup({ onLoad }) {
    onLoad({ filter: /\.toml$/ }, async ({ path }) => {
      const { points, std } = parse(await readFile(path, "utf8"));
      const numbers = std.map((value) => String(value)).join(",");
      return { contents: `export default {points: ${JSON.stringify(points)}, std: [${numbers}]};` };
    });
  },
};

async function copy(source, target) {
  await mkdir(dirname(target), { recursive: true });
  await copyFile(source, target);
}

const out = process.argv[2] ? resolve(process.argv[2]) : join(PACKAGE, "web");
await mkdir(out, { recursive: true });
await build({
  entryPoints: ["main.ts", "worker.ts", "worker-gpu.ts"].map((name) => join(WEB, "src", name)),
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  conditions: ["onnxruntime-web-use-extern-wasm"], // the runtime's own files beside the page, as the CSP wants
  plugins: [toml],
  legalComments: "linked",
  logLevel: "warning",
});
for (const name of ["index.html", "style.css", "icon.svg"]) await copy(join(WEB, name), join(out, name));
await copy(join(WEB, "..", "examples", "astronaut.jpg"), join(out, "example.jpg"));
for (const name of RUNTIME) {
  await copy(join(WEB, "node_modules", "onnxruntime-web", "dist", name), join(out, "ort", name));
}
if (process.argv[2]) {
  for (const name of MODELS) await copy(join(PACKAGE, "weights", name), join(out, "models", name));
}
console.log(out);
