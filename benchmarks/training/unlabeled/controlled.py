"""Self-training against controls with equal numbers of optimizer steps, on repeatedly measured faces.

Every row is one training of `stc_300w_wider.yaml` at 128 px. The labeled faces are HELEN and LFPW; no network
that is trained here or that labels was trained on AFW. A row with pseudo-labels has a control: a training on
the labels alone with at least as many steps, and at most one epoch more. Each face of an evaluation set is
predicted from its true box, from `JITTERED` boxes that are shifted and scaled at random, and from the
detector's box; its NME is the mean over them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.box_adapter import BoxAdapter, match_overlapping
from pipnet.config import TTA
from pipnet.datasets.load import load_samples
from pipnet.datasets.pseudo_labels import LABELING_RECORD
from pipnet.datasets.unlabeled import UnlabeledFace, load_unlabeled, write_boxes
from pipnet.errors import PipnetError
from pipnet.evaluation.evaluate import decoded
from pipnet.evaluation.sensitivity import nmes_from_boxes
from pipnet.geometry import Box, Image
from pipnet.inference.detectors.base import FaceDetector
from pipnet.inference.detectors.load import load_detector
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import load_checkpoint, read_checkpoint_metadata
from pipnet.model.config import PseudoTask
from pipnet.model.torch_model import TorchModel
from pipnet.training.recipe import Recipe, load_recipe
from pipnet.training.self_training import LABELS, round_recipe, self_train, teach
from pipnet.training.split import load_split
from pipnet.training.teachers import Teacher
from pipnet.training.trainer import train

LABELED = "helen+lfpw"
"""The labeled subset of 300-W: AFW is left out."""
JITTERED, MAX_SHIFT, MAX_SCALE, JITTER_SEED = 4, 0.1, 0.1, 23
"""Jittered boxes of a face; their maximum shift and change of size, as fractions of the side; their seed."""
MAX_RATIO = 3
"""Maximum number of unlabeled faces for a labeled one, where several unlabeled datasets are used."""
WARM_START_LR = 3e-4
"""Peak learning rate of a training that starts from the supervised weights; the recipe has 1e-3."""


class FaceSet(NamedTuple):
    """The faces of an evaluation set."""

    name: str
    folder: str
    subset: str


SETS = (
    FaceSet("AFW", "300w", "afw"),
    FaceSet("CFP 301 to 350", "cfp_profile", "val"),
    FaceSet("300-W Common", "300w", "common"),
    FaceSet("300-W Challenging", "300w", "challenging"),
    FaceSet("CFP 351 to 400", "cfp_profile", "test"),
    FaceSet("WFLW-68", "wflw", "test"),
)
CHOICE = SETS[0]
"""The row with the largest gain on these faces is chosen."""


class ControlledRow(NamedTuple):
    """One training; with unlabeled datasets, on pseudo-labels too."""

    name: str
    unlabeled: tuple[str, ...] = ()
    control: str = ""
    """The row on labels alone with as many steps."""
    steps_of: str = ""
    """Train on labels alone with as many steps as this row."""
    task: PseudoTask = "full"
    tta: TTA = "none"
    public: bool = False
    """Label with the public networks, not with the supervised row's."""
    warm_start: bool = False
    """Start from the supervised row's weights."""
    kept_boxes: bool = False
    """Keep the crop of faces whose dataset has boxes, instead of cutting it around the prediction."""


SUPERVISED = "supervised"
PLAIN = "plain self-training, one round"
PUBLIC = "labeled by public networks, one round"
AGREEMENT = "curriculum by agreement, translations, warm start"
LARGE = "plain self-training, WIDER, HELEN and LFW, kept boxes"
ROWS = (
    ControlledRow(SUPERVISED),
    ControlledRow(PLAIN, ("wider",), "supervised, equal steps"),
    ControlledRow("supervised, equal steps", steps_of=PLAIN),
    ControlledRow(PUBLIC, ("wider",), "supervised, equal steps", public=True),
    ControlledRow(
        AGREEMENT,
        ("wider",),
        "supervised, warm start, equal steps",
        task="by_agreement",
        tta="translation",
        warm_start=True,
    ),
    ControlledRow("supervised, warm start, equal steps", steps_of=AGREEMENT, warm_start=True),
    ControlledRow(
        LARGE, ("wider", "helen", "lfw"), "supervised, equal steps to three datasets", kept_boxes=True
    ),
    ControlledRow("supervised, equal steps to three datasets", steps_of=LARGE),
)
"""In the order of training: a control follows the row that it takes its number of steps from."""
BY_NAME = {row.name: row for row in ROWS}
_WITHOUT_BOXES = ("lfw",)
"""Unlabeled datasets with one constant box: an area in which the detector searches for the face."""


def required_rows(name: str, done: Collection[str] = ()) -> list[ControlledRow]:
    """Return the rows whose name contains a text, with the rows that they need, in the order of training.

    A row whose number of steps a control has is not needed if it is done with any seed.
    """
    wanted = {row.name for row in ROWS if name in row.name}
    for row in ROWS:
        if row.name in wanted and row.control:
            wanted.add(row.control)
    wanted |= {row.steps_of for row in ROWS if row.name in wanted and row.steps_of} - {*done}
    return [row for row in ROWS if row.name in wanted | {SUPERVISED}]


@dataclass
class Experiment:
    """The folders and limits of the rows, and what they share."""

    data: Path
    runs: Path
    faces: Path
    """The file with the errors of every face."""
    recipe_file: Path
    teachers: Sequence[Path]
    """Descriptions of the public networks."""
    results: dict[str, Any]
    """The results so far by row and seed, which the caller adds to."""
    flags: Sequence[str] = ()
    """Further flags of the recipe."""
    max_faces: int | None = None
    """Use only so many faces of each unlabeled dataset and each evaluation set."""
    detections: dict[Path, np.ndarray] = field(default_factory=dict)
    """The detector's boxes in each image that was searched."""
    _detector: FaceDetector | None = None

    @property
    def detector(self) -> FaceDetector:
        """The detector of all rows."""
        if self._detector is None:
            self._detector = load_detector("pipnet-face")
        return self._detector

    def folder(self, name: str, seed: int) -> Path:
        """Return the folder of a row."""
        return self.runs / f"{slug(name)}-seed{seed}"

    def weights(self, name: str, seed: int) -> Path:
        """Return the weights of a row.

        Raises:
            PipnetError: they do not exist yet.
        """
        number = 1 if BY_NAME[name].unlabeled else 0
        path = self.folder(name, seed) / f"round{number}" / "last.safetensors"
        if not path.is_file():
            raise PipnetError(f"{path}: missing: run the row {name!r} with seed {seed} first")
        return path

    # -- train -----------------------------------------------------------------------------------------

    def run(self, row: ControlledRow, seed: int) -> dict[str, Any]:
        """Train a row, or resume it, and return its results."""
        folder = self.folder(row.name, seed)
        folder.mkdir(parents=True, exist_ok=True)
        recipe = self.recipe(row, seed)
        if not row.unlabeled:
            weights = train(round_recipe(recipe, 0), folder / "round0", resume=True)
        elif row.public:
            weights = self._train_on_public_labels(recipe, seed, folder)
        else:
            weights = self_train(recipe, folder)
        result: dict[str, Any] = {
            "steps": last_step(weights.parent),
            "labeled": len(load_split(recipe).training),
        }
        if row.unlabeled:
            record = folder / ("labels" if row.public else "round1") / LABELING_RECORD
            result["labeling"] = json.loads(record.read_text())
        return result | self.measure(weights, f"controlled/{row.name}/{seed}")

    def recipe(self, row: ControlledRow, seed: int) -> Recipe:
        """Return the recipe of a row, with the number of epochs of a control."""
        flags = ["--data.root", str(self.data / "300w"), "--data.subset", LABELED, "--seed", str(seed)]
        recipe = load_recipe(self.recipe_file, [*flags, *self.flags])
        if row.steps_of:
            epochs = self._epochs_of_control(recipe, row)
            recipe = replace(recipe, optim=replace(recipe.optim, epochs=epochs))
        if row.warm_start:
            start = replace(recipe.initial, checkpoint=self.weights(SUPERVISED, seed))
            recipe = replace(recipe, initial=start, optim=replace(recipe.optim, lr=WARM_START_LR))
        if not row.unlabeled:
            return recipe
        teacher = self.weights(SUPERVISED, seed)
        self_training = replace(
            recipe.self_training,
            unlabeled=(self._unlabeled(row, seed, recipe),),
            tasks=(row.task,),
            tta=row.tta,
            teacher=teacher,
            limit=None,
        )
        return replace(recipe, self_training=self_training)

    def _epochs_of_control(self, recipe: Recipe, row: ControlledRow) -> int:
        """Return the number of epochs on labels alone that have at least as many steps as another row.

        An epoch has each face once, in complete batches (`pipnet.training.dataset.ShuffledEpochs`).
        """
        steps = max(int(result["steps"]) for result in self.results[row.steps_of].values())
        return -(-steps // (len(load_split(recipe).training) // recipe.optim.batch_size))

    def _unlabeled(self, row: ControlledRow, seed: int, recipe: Recipe) -> Path:
        """Write the table of a row's unlabeled faces, and return its path."""
        metadata = read_checkpoint_metadata(self.weights(SUPERVISED, seed))
        faces: list[UnlabeledFace] = []
        for name in row.unlabeled:
            found = load_unlabeled(self.data / "unlabelled" / name, self.runs / "frames")
            found = found if self.max_faces is None else evenly_spaced(found, self.max_faces)
            faces += [_with_format(face, name, metadata, row.kept_boxes) for face in found]
        if len(row.unlabeled) > 1:
            limit = MAX_RATIO * len(load_split(recipe).training)
            order = np.random.default_rng(0).permutation(len(faces))[:limit]
            faces = [faces[i] for i in sorted(order.tolist())]
        table = self.folder(row.name, seed) / "boxes.csv"
        write_boxes(table, faces)
        return table

    def _train_on_public_labels(self, recipe: Recipe, seed: int, folder: Path) -> Path:
        """Train on the consensus of the public networks, whose first crops the supervised row locates."""
        table = folder / "labels" / LABELS
        if not table.is_file():
            locator = TorchModel(*load_checkpoint(self.weights(SUPERVISED, seed)))
            teachers = [Teacher.load(path) for path in self.teachers]
            unlabeled = recipe.self_training.unlabeled
            teach(teachers, unlabeled, table.parent, locator.metadata.scheme, locator)
        pseudo = replace(recipe.pseudo, labels=table)
        return train(replace(round_recipe(recipe, 1), pseudo=pseudo), folder / "round1", resume=True)

    # -- measure ---------------------------------------------------------------------------------------

    def measure(self, weights: Path, name: str) -> dict[str, Any]:
        """Return the mean NME of each evaluation set in percent, and store those of every face.

        The file gets an array of (faces, 2): the mean over the boxes, and the NME from the true box.
        """
        network, metadata = load_checkpoint(weights)
        landmarker = FaceLandmarker(TorchModel(network, metadata))
        stored = dict(np.load(self.faces)) if self.faces.is_file() else {}
        result: dict[str, Any] = {"nme": {}, "nme_true_box": {}, "faces": {}, "missed": {}}
        for test in SETS:
            samples, _, spec = load_samples(
                self.data / test.folder, test.subset, metadata.scheme, for_evaluation=True
            )
            samples = samples if self.max_faces is None else evenly_spaced(samples, self.max_faces)
            rows, missed = [], 0
            for number, (image, sample) in enumerate(decoded(samples)):
                detected = self._detected_box(landmarker, image, sample)
                missed += detected is None
                boxes = _jittered_boxes(sample.face_box(metadata.crop), number)
                boxes = boxes if detected is None else np.concatenate([boxes, detected[None]])
                nmes = 100 * nmes_from_boxes(landmarker, (image, sample), boxes, spec.norm)
                rows.append([nmes.mean(), nmes[0]])
            errors = np.array(rows, np.float32)
            stored[f"{name}/{test.name}"] = errors
            means = errors.astype(float).mean(axis=0).round(4).tolist()
            result["nme"][test.name], result["nme_true_box"][test.name] = means
            result["faces"][test.name], result["missed"][test.name] = len(errors), missed
        np.savez_compressed(self.faces, **stored)
        return result

    def _detected_box(self, landmarker: FaceLandmarker, image: Image, sample: FaceSample) -> Box | None:
        """Return the box to crop around of the detection that overlaps most with the face, if any."""
        if sample.image not in self.detections:
            self.detections[sample.image] = self.detector(image).boxes
        boxes = landmarker.pipeline.adapt(self.detections[sample.image], self.detector.box_format)
        crop, (height, width) = landmarker.metadata.crop, image.shape[:2]
        regions = np.array([crop.region(box, width, height) for box in boxes], np.float32).reshape(-1, 4)
        match = match_overlapping(regions, crop.region(sample.face_box(crop), width, height))
        return None if match is None else boxes[match]


def _with_format(
    face: UnlabeledFace, dataset: str, metadata: ModelMetadata, kept_boxes: bool
) -> UnlabeledFace:
    """Return a face with the format of its box, or with what its crop shows for good."""
    if dataset in _WITHOUT_BOXES:
        return replace(face, box_format="region")
    if not kept_boxes or face.box is None:
        return replace(face, box_format="face")
    crop_box = metadata.box_adapter("face").apply(face.box[None])[0]
    assert not metadata.crop.clip  # the size of the image does not count
    return replace(face, box=metadata.crop.region(crop_box, 0, 0), box_format="crop")


def _jittered_boxes(true_box: Box, number: int) -> np.ndarray:
    """Return the true box, then the same jittered ones for each model, by the number of the face."""
    rng = np.random.default_rng([JITTER_SEED, number])
    boxes = [true_box]
    for _ in range(JITTERED):
        dx, dy = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2).tolist()
        scale = float(rng.uniform(1 - MAX_SCALE, 1 + MAX_SCALE))
        low, high = (1 - scale) / 2, (1 + scale) / 2
        boxes.append(BoxAdapter(low + dx, low + dy, high + dx, high + dy).apply(true_box[None])[0])
    return np.stack(boxes)


def last_step(run: Path) -> int:
    """Return the number of optimizer steps of a finished training."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return int(json.loads(lines[-1])["step"])


def slug(name: str) -> str:
    """Return a name as part of a file name."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
