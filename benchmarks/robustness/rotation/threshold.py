"""The quality below which a face is searched at other rotations (`pipnet.inference.rotation`).

    python benchmarks/robustness/rotation/threshold.py

Writes ``threshold.json``: for each model and set of validation faces the share of upright faces that a
threshold would search, and the share of predictions in crops rotated by 90, 180 and 270 degrees that it would
accept, in percent, from true boxes. ``score 0.55`` is the rule of models without a calibration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipnet import FaceLandmarker
from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded
from pipnet.inference.predict import predict_crops, quality
from pipnet.io.atomic import write_text

sys.path.append(str(Path(__file__).parents[2]))
from _common import new_parser, provenance

HERE = Path(__file__).parent
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
ANGLES = np.array([0.0, 90.0, 180.0, 270.0])


def main() -> None:
    """Measure all models."""
    data = new_parser(__doc__).parse_args().shared / "data"
    faces = load_samples(data / "300w", "train-deduplicated")[0]
    sets = {
        "300-W validation": split_by_group(faces, 0.05, seed=0)[1],
        "CFP 301 to 350": load_samples(data / "cfp_profile", "val")[0],
    }
    result: dict[str, Any] = {
        model: {name: shares(FaceLandmarker(model), samples) for name, samples in sets.items()}
        for model in ("pipnet-68", "pipnet-98", "pipnet-tiny")
    }
    write_text(HERE / "threshold.json", json.dumps(result | provenance(), indent=1) + "\n")


def shares(landmarker: FaceLandmarker, samples: Sequence[FaceSample]) -> dict[str, Any]:
    """Return both shares for each rule."""
    rows = []
    for image, sample in decoded(samples):
        box = sample.face_box(landmarker.metadata.crop)[None]
        prediction = predict_crops(landmarker.model, [image] * 4, [box] * 4, angles=ANGLES)
        qualities = quality(prediction, landmarker.metadata)
        assert qualities is not None
        rows.append([qualities, prediction.scores.mean(axis=1)])
    qualities, scores = np.array(rows).transpose(1, 0, 2)
    rules = {"score 0.55": scores >= 0.55} | {f"quality {t}": qualities >= t for t in THRESHOLDS}
    return {"faces": len(rows)} | {
        name: {
            "upright searched": round(100 * float(1 - accepted[:, 0].mean()), 2),
            "rotated accepted": round(100 * float(accepted[:, 1:].mean()), 2),
        }
        for name, accepted in rules.items()
    }


if __name__ == "__main__":
    main()
