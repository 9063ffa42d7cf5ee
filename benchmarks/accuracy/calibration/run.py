"""The quality of a calibration on a dataset that the model was not trained on.

    python benchmarks/accuracy/calibration/run.py

`pipnet-300w-mbv2` is trained on 300-W alone. It is calibrated on faces of 300-W that were held out of its
training, and evaluated on other held-out faces (two halves by photo, each evaluated with the calibration of
the other) and on 300W-LP's profile views of their photos, whose points come from a 3D model. The features of
`pipnet.confidence` and `pipnet.training.calibrate.DOMAIN_SHIFT` were chosen by this, and not by any test set.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.confidence import MAX_ERROR, Calibration, features
from pipnet.datasets.load import load_samples
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.training.calibrate import DOMAIN_SHIFT, fit, logistic, observe

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    earlier_checkpoint,
    measured_on,
    new_parser,
    photo_of,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)
from accuracy.confidence.reliability import ReliabilityData, auroc, calibration_error, gain_of_dropping

HERE = Path(__file__).parent
VIEWS = 8
"""Augmented crops of each face."""
FEATURES = {"the landmark's score and vote_std": 4, "and its neighbors', and the mean of the face": 8}
"""Number of features used, by name."""


class Observations:
    """Predictions of the model on several views of each face, and their errors."""

    def __init__(self, model: TorchModel, samples: list[FaceSample]) -> None:
        self.photos = np.repeat([photo_of(s.image.stem) for s in samples], VIEWS)
        self.scores, self.vote_std, self.errors = observe(model, samples, VIEWS, seed=0)
        self.mean_face = model.metadata.mean_face
        self.plain = np.arange(len(self.errors)) % VIEWS == 0

    def fit(self, count: int, chosen: np.ndarray, domain_shift: float) -> Calibration:
        """Return a calibration with `count` features, fitted to some views."""
        values = features(self.scores[chosen], self.vote_std[chosen], self.mean_face)[:count]
        return fit(values, self.errors[chosen], domain_shift)

    def reliability(self, calibration: Calibration, chosen: np.ndarray) -> ReliabilityData:
        """Return the predicted and true errors of some views."""
        inputs = self.scores[chosen], self.vote_std[chosen], self.mean_face
        errors = self.errors[chosen]
        return ReliabilityData(
            calibration.estimate(*inputs).probability,
            calibration.estimate(*inputs).expected,
            errors,
            errors > MAX_ERROR,
        )


def main() -> None:
    """Measure, and write the page."""
    arguments = new_parser(__doc__).parse_args()
    results = read_results(HERE)
    if not arguments.report:
        results = measure(arguments.shared / "data")
        write_results(HERE, results)
    write_report(HERE, report(results))


def measure(data: Path) -> dict[str, Any]:
    """Observe, fit and evaluate."""
    model = TorchModel(*load_checkpoint(earlier_checkpoint("pipnet-300w-mbv2")))
    faces, _, _ = load_samples(data / "300w", "train")
    held_out = split_by_group(faces, 0.05, seed=0)[1]
    photos = {photo_of(s.image.stem) for s in held_out if s.name.startswith("afw/")}
    views, _, _ = load_samples(data / "300w_lp_afw", None, model.metadata.scheme)
    same = Observations(model, held_out)
    other = Observations(model, [v for v in views if photo_of(v.image.stem) in photos])
    rows = [
        {"features": name, "domain shift": shift, "faces": test, **measures(reliability)}
        for name, count in FEATURES.items()
        for shift in ((0, 0.5, 1) if count == 8 else (0,))
        for test, reliability in evaluate_all(same, other, count, shift).items()
    ]
    odds = {
        test.partition(", ")[2]: [round(value, 2) for value in fit_odds(reliability)]
        for test, reliability in evaluate_all(same, other, 8, 0).items()
        if "other" in test
    }
    counts = {"same dataset": int(same.plain.sum()), "other dataset": int(other.plain.sum())}
    return {"model": model.metadata.name, "counts": counts, "rows": rows, "odds": odds, **provenance()}


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    digits = {"wrong %": 1, "predicted %": 1, "AUROC": 3, "ECE": 3, "gain %": 1}
    rows = [
        [row["features"], row["domain shift"], row["faces"]]
        + [f"{row[key]:.{places}f}" for key, places in digits.items()]
        for row in results["rows"]
    ]
    odds = " and ".join(f"{factor:.2f} and {offset:.2f}" for factor, offset in results["odds"].values())
    return [
        "# Calibration on another dataset",
        "",
        f"`{results['model']}`, `python benchmarks/accuracy/calibration/run.py`, {measured_on(results)}.",
        f"Same dataset: {results['counts']['same dataset']} held-out faces of 300-W; other dataset:",
        f"{results['counts']['other dataset']} views of 300W-LP,",
        "photos of those faces rendered in profile, with points of a 3D model. Columns as in",
        "[confidence](../confidence/report.md).",
        "",
        *table(["features", "domain shift", "faces", *digits], rows),
        "",
        "On the other dataset the true log odds are the predicted ones times a factor, plus an offset: "
        + odds,
        f"(original, harder); `DOMAIN_SHIFT` is {DOMAIN_SHIFT[0]} and {DOMAIN_SHIFT[1]}.",
        "That is less than both, because a larger shift is worse on the model's own dataset. Weights use",
        "half of it. It was chosen on these views; its effect on a third dataset is in",
        "[confidence](../confidence/report.md).",
    ]


def evaluate_all(
    same: Observations, other: Observations, count: int, domain_shift: float
) -> dict[str, ReliabilityData]:
    """Return the reliability on both datasets, of original and of harder crops."""
    photos = np.unique(same.photos)
    first = np.isin(same.photos, np.random.default_rng(0).permutation(photos)[: len(photos) // 2])
    calibration_of_all = same.fit(count, np.ones_like(first), domain_shift)
    crossed = [(same.fit(count, ~half, domain_shift), half) for half in (first, ~first)]
    result = {}
    for title, same_views, other_views in (
        ("original", same.plain, other.plain),
        ("harder", ~same.plain, ~other.plain),
    ):
        parts = [same.reliability(calibration, half & same_views) for calibration, half in crossed]
        result[f"same dataset, {title}"] = ReliabilityData(
            *(np.concatenate(part) for part in zip(*parts, strict=True))
        )
        result[f"other dataset, {title}"] = other.reliability(calibration_of_all, other_views)
    return result


def measures(reliability: ReliabilityData) -> dict[str, float]:
    """Return the measures of the page's table, rounded as they are printed."""
    known = np.isfinite(reliability.errors)
    wrong, predicted = reliability.wrong[known].mean(), reliability.error_probability[known].mean()
    return {
        "wrong %": round(100 * float(wrong), 1),
        "predicted %": round(100 * float(predicted), 1),
        "AUROC": round(auroc(reliability), 3),
        "ECE": round(calibration_error(reliability), 3),
        "gain %": round(100 * gain_of_dropping(reliability), 1),
    }


def fit_odds(reliability: ReliabilityData) -> tuple[float, float]:
    """Return the factor and the offset that bring the predicted log odds to the true ones."""
    known = np.isfinite(reliability.errors)
    probability = reliability.error_probability[known].astype(np.float64).clip(1e-9, 1 - 1e-9)
    predicted = np.log(probability / (1 - probability))
    factor, offset = logistic(
        np.stack([predicted, np.ones_like(predicted)], axis=1), reliability.wrong[known]
    )
    return float(factor), float(offset)


if __name__ == "__main__":
    main()
