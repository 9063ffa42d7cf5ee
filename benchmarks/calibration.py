"""What a calibration is worth in a collection that the model never saw: `benchmarks/calibration.md`.

    python benchmarks/calibration.py --shared ../shared

`pipnet-300w-mbv2` learnt from 300-W alone. It is calibrated on faces of 300-W kept out of its training, and
judged on others of them (two halves by photo, each judged by the other) and on 300W-LP's profile views of
their photos, whose points a 3D model put where they are. The terms of `pipnet.confidence` and
`pipnet.training.calibrate.ELSEWHERE` were chosen by this, and not by any test set.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from pathlib import Path

import numpy as np
from unlabeled import photo_of

from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.confidence import MAX_ERROR, Calibration, features
from pipnet.datasets.load import load_samples
from pipnet.evaluation.reliability import Judged, auroc, calibration_error, gain_of_dropping
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.predictor import TorchModel
from pipnet.training.calibrate import ELSEWHERE, fit, logistic, observe

HERE = Path(__file__).parent
LOOKS = 8
FORMS = {"own score and spread": 4, "and those around, and the whole face's": 8}
"""So many of the terms."""


class Seen:
    """Faces, what the model said of them in several looks, and how wrong it was."""

    def __init__(self, model: TorchModel, samples: list[FaceSample]) -> None:
        self.photos = np.repeat([photo_of(s.image.stem) for s in samples], LOOKS)
        self.scores, self.vote_std, self.errors = observe(model, samples, LOOKS, seed=0)
        self.mean_face = model.metadata.mean_face
        self.plain = np.arange(len(self.errors)) % LOOKS == 0

    def fit(self, count: int, chosen: np.ndarray, elsewhere: float) -> Calibration:
        """A calibration of so many terms on some looks."""
        of_terms = features(self.scores[chosen], self.vote_std[chosen], self.mean_face)[:count]
        return fit(of_terms, self.errors[chosen], elsewhere)

    def judge(self, calibration: Calibration, chosen: np.ndarray) -> Judged:
        """What it says of some looks."""
        of = self.scores[chosen], self.vote_std[chosen], self.mean_face
        errors = self.errors[chosen]
        return Judged(
            calibration.error_probability(*of), calibration.expected_error(*of), errors, errors > MAX_ERROR
        )


def main() -> None:
    """Look, fit, judge, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    data = parser.parse_args().shared / "data"
    model = TorchModel(*load_checkpoint(HERE.parent / "checkpoints" / "pipnet-300w-mbv2.safetensors"))
    faces, _, _ = load_samples(data / "300w", "train")
    held_out = split_by_group(faces, 0.05, seed=0)[1]
    kept = {photo_of(s.image.stem) for s in held_out if s.name.startswith("afw/")}
    views, _, _ = load_samples(data / "300w_lp_afw", None, model.metadata.scheme)
    own = Seen(model, held_out)
    other = Seen(model, [v for v in views if photo_of(v.image.stem) in kept])
    lines = [
        "# Calibration in another collection",
        "",
        f"`{model.metadata.name}`, `python benchmarks/calibration.py`, commit {_git()},"
        f" {platform.processor() or platform.machine()}.",
        f"Own: {own.plain.sum()} faces of 300-W kept out; other: {other.plain.sum()} views of 300W-LP,",
        "photos of those faces turned to profile, with points where a 3D model put them. Columns as in",
        "[confidence](confidence.md).",
        "",
        "| terms | towards elsewhere | faces | wrong % | said % | AUROC | ECE | gain % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, count in FORMS.items():
        for elsewhere in (0, 0.5, 1) if count == 8 else (0,):
            for where, judged in judge_all(own, other, count, elsewhere).items():
                lines.append(f"| {name} | {elsewhere} | {where} | {row(judged)} |")
    slopes = [odds(judged) for where, judged in judge_all(own, other, 8, 0).items() if "other" in where]
    lines += [
        "",
        "In the other collection log odds are, of those said, "
        + " and ".join(f"{slope:.2f} times and {more:.2f} more" for slope, more in slopes)
        + f" (as they are, harder); taken for elsewhere: {ELSEWHERE[0]} and {ELSEWHERE[1]}.",
        "That is on the careful side: what goes too far costs its own collection. Weights go half the way.",
        "It was chosen on these very views: what it is worth in yet another collection is in",
        "[confidence](confidence.md).",
    ]
    (HERE / "calibration.md").write_text("\n".join(lines) + "\n")


def judge_all(own: Seen, other: Seen, count: int, elsewhere: float) -> dict[str, Judged]:
    """Both collections, as they are and harder."""
    photos = np.unique(own.photos)
    first = np.isin(own.photos, np.random.default_rng(0).permutation(photos)[: len(photos) // 2])
    everyone = own.fit(count, np.ones_like(first), elsewhere)
    crossed = [(own.fit(count, ~half, elsewhere), half) for half in (first, ~first)]
    result = {}
    for way, of_own, of_other in (
        ("as they are", own.plain, other.plain),
        ("harder", ~own.plain, ~other.plain),
    ):
        parts = [own.judge(calibration, half & of_own) for calibration, half in crossed]
        result[f"own, {way}"] = Judged(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        result[f"other, {way}"] = other.judge(everyone, of_other)
    return result


def row(judged: Judged) -> str:
    """The measures, in the columns of the page."""
    known = np.isfinite(judged.errors)
    wrong, said = judged.wrong[known].mean(), judged.chance[known].mean()
    return (
        f"{100 * wrong:.1f} | {100 * said:.1f} | {auroc(judged):.3f} | {calibration_error(judged):.3f}"
        f" | {100 * gain_of_dropping(judged):.1f}"
    )


def odds(judged: Judged) -> tuple[float, float]:
    """What log odds would have to be, of those said: a factor, and so much more."""
    known = np.isfinite(judged.errors)
    chance = judged.chance[known].astype(np.float64).clip(1e-9, 1 - 1e-9)
    said = np.log(chance / (1 - chance))
    factor, more = logistic(np.stack([said, np.ones_like(said)], axis=1), judged.wrong[known])
    return float(factor), float(more)


def _git() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
