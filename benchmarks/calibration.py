"""The quality of a calibration on a dataset that the model was not trained on: `benchmarks/calibration.md`.

    python benchmarks/calibration.py --shared ../shared

`pipnet-300w-mbv2` is trained on 300-W alone. It is calibrated on faces of 300-W that were held out of its
training, and evaluated on other held-out faces (two halves by photo, each evaluated with the calibration of
the other) and on 300W-LP's profile views of their photos, whose points come from a 3D model. The features of
`pipnet.confidence` and `pipnet.training.calibrate.DOMAIN_SHIFT` were chosen by this, and not by any test set.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.confidence import MAX_ERROR, Calibration, features
from pipnet.datasets.load import load_samples
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.training.calibrate import DOMAIN_SHIFT, fit, logistic, observe
from reliability import ReliabilityData, auroc, calibration_error, gain_of_dropping
from unlabeled import photo_of

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
    """Observe, fit, evaluate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    data = parser.parse_args().shared / "data"
    model = TorchModel(*load_checkpoint(HERE.parent / "checkpoints" / "pipnet-300w-mbv2.safetensors"))
    faces, _, _ = load_samples(data / "300w", "train")
    held_out = split_by_group(faces, 0.05, seed=0)[1]
    photos = {photo_of(s.image.stem) for s in held_out if s.name.startswith("afw/")}
    views, _, _ = load_samples(data / "300w_lp_afw", None, model.metadata.scheme)
    held_out_300w = Observations(model, held_out)
    other_dataset = Observations(model, [v for v in views if photo_of(v.image.stem) in photos])
    lines = [
        "# Calibration on another dataset",
        "",
        f"`{model.metadata.name}`, `python benchmarks/calibration.py`, commit {_git()},"
        f" {platform.processor() or platform.machine()}.",
        f"Same dataset: {held_out_300w.plain.sum()} held-out faces of 300-W; other dataset:",
        f"{other_dataset.plain.sum()} views of 300W-LP,",
        "photos of those faces rendered in profile, with points of a 3D model. Columns as in",
        "[confidence](confidence.md).",
        "",
        "| features | domain shift | faces | wrong % | predicted % | AUROC | ECE | gain % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, count in FEATURES.items():
        for domain_shift in (0, 0.5, 1) if count == 8 else (0,):
            for test, reliability in evaluate_all(held_out_300w, other_dataset, count, domain_shift).items():
                lines.append(f"| {name} | {domain_shift} | {test} | {row(reliability)} |")
    results = evaluate_all(held_out_300w, other_dataset, 8, 0)
    slopes = [fit_odds(reliability) for test, reliability in results.items() if "other" in test]
    lines += [
        "",
        "On the other dataset the true log odds are the predicted ones times a factor, plus an offset: "
        + " and ".join(f"{slope:.2f} and {offset:.2f}" for slope, offset in slopes)
        + f" (original, harder); `DOMAIN_SHIFT` is {DOMAIN_SHIFT[0]} and {DOMAIN_SHIFT[1]}.",
        "That is on the careful side: a larger shift costs the model's own dataset. Weights use half of it.",
        "It was chosen on these views; its effect on a third dataset is in",
        "[confidence](confidence.md).",
    ]
    (HERE / "calibration.md").write_text("\n".join(lines) + "\n")


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


def row(reliability: ReliabilityData) -> str:
    """Return the measures as cells of the page's table."""
    known = np.isfinite(reliability.errors)
    wrong, predicted = reliability.wrong[known].mean(), reliability.error_probability[known].mean()
    ranking = f"{auroc(reliability):.3f} | {calibration_error(reliability):.3f}"
    return (
        f"{100 * wrong:.1f} | {100 * predicted:.1f} | {ranking} | {100 * gain_of_dropping(reliability):.1f}"
    )


def fit_odds(reliability: ReliabilityData) -> tuple[float, float]:
    """Return the factor and the offset that bring the predicted log odds to the true ones."""
    known = np.isfinite(reliability.errors)
    probability = reliability.error_probability[known].astype(np.float64).clip(1e-9, 1 - 1e-9)
    predicted = np.log(probability / (1 - probability))
    factor, offset = logistic(
        np.stack([predicted, np.ones_like(predicted)], axis=1), reliability.wrong[known]
    )
    return float(factor), float(offset)


def _git() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
