"""Learning from unlabeled faces: rounds, tasks of pseudo-labels, and reruns that repeat no finished work."""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.pseudo_labels import PseudoLabel, read_pseudo_labels, write_pseudo_labels
from pipnet.datasets.unlabeled import UnlabeledFace, load_unlabeled
from pipnet.errors import DataError, ModelError, RecipeError
from pipnet.geometry import CropConfig
from pipnet.io.image import write_image
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.training.initial_model import license_of_weights
from pipnet.training.pseudo_labeling import label_faces
from pipnet.training.recipe import SelfTrainingConfig, load_recipe
from pipnet.training.self_training import LABELS, check_teacher, round_recipe, self_train, unlabeled_faces
from pipnet.training.split import load_split
from pipnet.training.trainer import Trainer, train
from test_pseudo_labeling import NOWHERE

pytestmark = pytest.mark.usefixtures("no_curves")

ROOT = Path(__file__).parents[1]
CONFIG = ModelConfig(
    "lcnet_050", input_size=128, neighbors=3, neck_width=16, stride=16, curriculum="published"
)
RECIPE = """
name: rounds
workers: 0
precision: float32
data: {{validation: 0.3}}
initial: {{checkpoint: {checkpoint}}}
model:
  {{backbone: lcnet_050, input_size: 128, neighbors: 3, neck_width: 16, stride: 16, curriculum: published}}
optim: {{batch_size: 4, epochs: 1, lr: 0.002, ema: null}}
self_training: {{tasks: [quarter, full]}}
"""
"""The network predicts the same landmarks for all faces, so that its pseudo-labels are always usable."""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, mean_face_checkpoint):
    path = tmp_path_factory.mktemp("recipe") / "rounds.yaml"
    path.write_text(RECIPE.format(checkpoint=mean_face_checkpoint(CONFIG)))
    return path


# -- rounds --------------------------------------------------------------------------------------------


def test_weights_name_the_license_of_the_networks_that_labeled(small_300w, unlabeled, tmp_path):
    assert main(["teach", str(unlabeled), "-o", str(tmp_path / "labels"), "--teacher", "pipnet-tiny"]) == 0
    table = tmp_path / "labels" / LABELS
    for data, pseudo in ((small_300w, ["--pseudo.labels", str(table)]), (table, ["--data.scheme", "300w"])):
        flags = ["--data.root", str(data), "--data.validation", "0", "--optim.batch-size", "2", *pseudo]
        split = load_split(load_recipe(ROOT / "recipes" / "own.yaml", flags))
        assert "pseudo-labels of: research use only" in license_of_weights(split, None)
        assert "as you decide" not in license_of_weights(split, None)


def test_self_train_redoes_only_missing_rounds(recipe_file, small_300w, unlabeled, tmp_path, capsys):
    run = tmp_path / "run"
    command = ["self-train", str(recipe_file), "--data", str(small_300w), "--unlabeled", str(unlabeled)]
    assert main([*command, "-o", str(run)]) == 0
    assert "round2" in capsys.readouterr().err
    record = json.loads((run / "round1" / "labeling.json").read_text())
    assert (record["unlabeled"], record["labeled"]) == (14, 12)
    assert record["dropped"] == {"image cannot be read": 1, "box is tiny or oblong": 1}
    assert all((run / "round1" / name).is_file() for name in (LABELS, "quality.png", "best_and_worst.jpg"))
    recipes = [(run / f"round{i}" / "recipe.yaml").read_text() for i in range(3)]
    assert ["task: quarter" in text for text in recipes] == [False, True, False]
    _, metadata = load_checkpoint(run / "round2" / "best.safetensors")
    assert "with pseudo-labels" in metadata.training
    _, first = load_checkpoint(run / "round0" / "best.safetensors")
    assert metadata.license == first.license  # the weights that label are of the same license
    before = {
        path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix in (".csv", ".safetensors")
    }
    weights = (run / "round2" / "best.safetensors").read_bytes()
    assert main([*command, "-o", str(run)]) == 0  # everything is finished: nothing is repeated
    assert before == {path: path.stat().st_mtime_ns for path in before}
    shutil.rmtree(run / "round2")
    assert main([*command, "-o", str(run)]) == 0
    assert (run / "round2" / "best.safetensors").read_bytes() == weights
    assert main([*command, "-o", str(run), "--self-training.tta", "flip"]) == 1
    assert "labeled with other tta" in capsys.readouterr().err


def test_self_train_keeps_the_crops_of_a_paper(recipe_file, small_300w, tmp_path):
    """IJCV's learning across datasets: unlabeled faces have the same crops in all rounds."""
    table, run = tmp_path / "faces.csv", tmp_path / "run"
    assert main(["data", "boxes", str(small_300w), "--crops", "gssl", "-o", str(table)]) == 0
    command = ["self-train", str(recipe_file), "--data", str(small_300w), "--unlabeled", str(table)]
    command += ["--data.paper-crops", "gssl", "--self-training.box-format", "crop", "--crop.scale", "1.3"]
    assert main([*command, "--crop.no-square", "--crop.clip", "--max-steps", "1", "-o", str(run)]) == 0
    given = [face.box for face in load_unlabeled(table, tmp_path)]
    crop = CropConfig(scale=1.3, square=False, clip=True)
    for number in (1, 2):
        labels = read_pseudo_labels(run / f"round{number}" / LABELS)
        regions = [crop.region(label.sample.crop_box, 260, 230) for label in labels]
        np.testing.assert_allclose(regions, given, atol=0.1)


def test_self_train_checks_the_teacher_before_training(
    recipe_file, small_300w, unlabeled, torch_model, tmp_path
):
    """Boxes of a detector have no meaning for a teacher without an adapter; boxes of landmarks need none."""
    teacher = tmp_path / "teacher.safetensors"
    save_checkpoint(teacher, torch_model.network, replace(torch_model.metadata, box_adapters={}))
    flags = ["--data.root", str(small_300w), "--self-training.unlabeled", str(unlabeled)]
    with pytest.raises(ModelError, match="no adapter for boxes"):
        self_train(
            load_recipe(recipe_file, [*flags, "--self-training.teacher", str(teacher)]), tmp_path / "run"
        )
    assert not (tmp_path / "run" / "round1").exists()
    faces = [UnlabeledFace(Path("a.jpg"), np.array([0, 0, 9, 9], np.float32), "a", "landmarks")]
    check_teacher(faces, SelfTrainingConfig(teacher=teacher))


def test_self_train_refuses_pseudo_labels_of_trial(recipe_file, small_300w, unlabeled, tmp_path, capsys):
    command = ["self-train", str(recipe_file), "--data", str(small_300w), "--unlabeled", str(unlabeled)]
    command += ["-o", str(tmp_path / "run"), "--self-training.tasks", "full"]
    assert main([*command, "--max-steps", "1"]) == 0
    assert main(command) == 1
    assert "round1 was labeled with other weights: delete it" in capsys.readouterr().err


def test_self_train_with_teacher_has_no_round_0(recipe_file, small_300w, unlabeled, tmp_path):
    flags = ["--data.root", str(small_300w), "--self-training.unlabeled", str(unlabeled)]
    flags += ["--self-training.tasks", "full", "--pseudo.max-std", "3"]
    teacher = ROOT / "checkpoints" / "pipnet-68.safetensors"
    recipe = load_recipe(recipe_file, [*flags, "--self-training.teacher", str(teacher)])
    self_train(recipe, tmp_path / "run", max_steps=2)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["round1"]
    labels = read_pseudo_labels(tmp_path / "run" / "round1" / LABELS)
    assert np.median([label.mean_score for label in labels]) > 0.4  # the teacher knows faces
    assert "max_std: 3" in (tmp_path / "run" / "round1" / "recipe.yaml").read_text()
    # Round 0 ignores the recipe's settings of pseudo-labels.
    train(round_recipe(load_recipe(recipe_file, flags), 0), tmp_path / "round0", max_steps=2)
    assert "max_std: null" in (tmp_path / "round0" / "recipe.yaml").read_text()


def test_train_uses_labels_of_annotate(recipe_file, small_300w, tmp_path):
    """From unlabeled images to a network trained on them, with the labels of a bulk job."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    for number, face in enumerate(load_samples(small_300w, "full")[0][:5]):
        shutil.copy(face.image, images / f"{number}{face.image.suffix}")
    write_image(images / "empty.png", np.full((90, 90, 3), 128, np.uint8))
    (images / "damaged.jpg").write_bytes(b"not an image")
    command = [str(images), "-o", str(labels), "--workers", "1", "--tta", "flip", "--shard-size", "3"]
    assert main(["annotate", *command]) == 0
    flags = ["--data.root", str(small_300w), "--pseudo.labels", str(labels)]
    trainer = Trainer(load_recipe(recipe_file, flags), tmp_path / "run")
    pseudo = trainer.split.pseudo
    assert [label.sample.name for label in pseudo] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.png"]
    truth = FaceLandmarker()
    for label in pseudo:
        faces = truth(label.sample.image)
        np.testing.assert_allclose(
            label.sample.points, faces.points[0], atol=2
        )  # without test-time augmentation
        assert label.mean_score == pytest.approx(faces.scores[0].mean(), abs=0.05)
        assert label.vote_std == pytest.approx(100 * faces.vote_std[0].mean(), abs=0.3)
        assert 0 < label.label_std < 5
    trainer.fit(max_steps=2)
    _, metadata = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert "5 with pseudo-labels" in metadata.training
    one = load_recipe(recipe_file, [*flags[:3], str(labels / "shards" / "00001.parquet")])
    assert len(load_split(one).pseudo) == 2
    with pytest.raises(DataError, match="no face passes pseudo.min_score"):
        load_split(load_recipe(recipe_file, [*flags, "--pseudo.min-score", "0.99"]))


def test_load_split_refuses_unusable_labels_of_annotate(recipe_file, small_300w, portrait, tmp_path):
    labels = tmp_path / "labels"
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(portrait, "a.jpg")
    assert main(["annotate", str(tmp_path / "images.tar"), "-o", str(labels), "--workers", "1"]) == 0
    recipe = load_recipe(recipe_file, ["--data.root", str(small_300w), "--pseudo.labels", str(labels)])
    with pytest.raises(DataError, match=r"images\.tar/a\.jpg is inside another file: unpack"):
        load_split(recipe)
    file = labels / "manifest.json"
    manifest = json.loads(file.read_text())
    scheme = manifest["model"]["scheme"]
    bare = {"norm": "box", "flip": [], "edges": [], "regions": {}, "landmark_names": []}
    for changed, message in (
        ({**manifest, "model": {"scheme": {**scheme, "landmarks": 67}}}, r"\[67\] are not among 0 to 66"),
        ({**manifest, "model": {"scheme": {**scheme, **bare, "landmarks": 67}}}, "67 landmarks a face"),
        (
            {
                **manifest,
                "model": {"scheme": {**scheme, "name": "other", "regions": {}, "landmark_names": []}},
            },
            "scheme 'other'",
        ),
        ({**manifest, "model": {}}, "not a manifest: no 'scheme'"),
        ({key: value for key, value in manifest.items() if key != "shards"}, "not finished"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=message):
            load_split(recipe)


def test_trainer_sets_task_and_weight_of_pseudo_labeled_faces(
    recipe_file, small_300w, unlabeled, torch_model, tmp_path
):
    labels, _ = label_faces(torch_model, load_unlabeled(unlabeled, NOWHERE)[:4])
    write_pseudo_labels(tmp_path / "labels.csv", labels)
    flags = ["--data.root", str(small_300w), "--pseudo.labels", str(tmp_path / "labels.csv")]
    trainer = Trainer(load_recipe(recipe_file, [*flags, "--pseudo.task", "half"]), tmp_path / "run")
    examples = [trainer.dataset[i] for i in range(len(trainer.dataset))]
    tasks = [set(example.task.tolist()) for example in examples]
    assert tasks == [{0}] * len(trainer.split.training) + [{1}] * 4
    weighted = load_recipe(recipe_file, [*flags, "--pseudo.weight_by_score"])
    dataset = Trainer(weighted, tmp_path / "b").dataset
    weights = [dataset[i].weight for i in range(len(dataset) - 4, len(dataset))]
    assert weights == pytest.approx([label.mean_score for label in labels], abs=1e-4)


def test_tasks_by_agreement_are_those_of_each_landmark(
    recipe_file, small_300w, unlabeled, torch_model, tmp_path
):
    labels, _ = label_faces(torch_model, load_unlabeled(unlabeled, NOWHERE)[:3])
    std = np.full(68, 6.5, np.float32)
    std[:20], std[20:30] = 3, 6
    graded = [replace(label, landmark_std=std) for label in labels]
    write_pseudo_labels(tmp_path / "labels.csv", graded)
    flags = ["--data.root", str(small_300w), "--pseudo.labels", str(tmp_path / "labels.csv")]
    flags += ["--pseudo.task", "by_agreement", "--augment.flip"]
    expected = np.repeat([0, 1, 2], [20, 10, 38])
    for mirrored in (False, True):
        recipe = load_recipe(recipe_file, [*flags, str(float(mirrored))])
        trainer = Trainer(recipe, tmp_path / f"run{mirrored}")
        dataset = trainer.dataset
        order = dataset.scheme.flip_permutation if mirrored else slice(None)
        for i in range(len(dataset) - 3, len(dataset)):
            np.testing.assert_array_equal(dataset[i].task, expected[order])
        assert not dataset[0].task.any()
    trainer.fit(max_steps=1)
    other = load_recipe(recipe_file, [*flags, "0", "--pseudo.agreement", "2", "7"])
    dataset = Trainer(other, tmp_path / "other").dataset
    np.testing.assert_array_equal(dataset[len(dataset) - 1].task, np.ones(68))


def test_tasks_by_agreement_need_the_std_of_each_landmark(
    recipe_file, small_300w, unlabeled, torch_model, tmp_path
):
    """Tables of earlier versions do not have it."""
    labels, _ = label_faces(torch_model, load_unlabeled(unlabeled, NOWHERE)[:2])
    write_pseudo_labels(tmp_path / "labels.csv", [replace(label, landmark_std=None) for label in labels])
    flags = ["--data.root", str(small_300w), "--pseudo.labels", str(tmp_path / "labels.csv")]
    with pytest.raises(DataError, match="no standard deviation of each landmark"):
        Trainer(load_recipe(recipe_file, [*flags, "--pseudo.task", "by_agreement"]), tmp_path / "run")
    with pytest.raises(RecipeError, match="needs model.curriculum"):
        load_recipe(recipe_file, ["--pseudo.task", "by_agreement", "--model.curriculum", "none"])
    with pytest.raises(RecipeError, match="two rising percentages"):
        load_recipe(recipe_file, ["--pseudo.agreement", "6", "3"])


def test_self_train_by_agreement_labels_with_the_std_of_each_landmark(
    recipe_file, small_300w, unlabeled, tmp_path
):
    flags = ["--data.root", str(small_300w), "--self-training.unlabeled", str(unlabeled)]
    flags += ["--self-training.tasks", "by_agreement", "--self-training.tta", "flip"]
    teacher = ROOT / "checkpoints" / "pipnet-68.safetensors"
    recipe = load_recipe(recipe_file, [*flags, "--self-training.teacher", str(teacher)])
    self_train(recipe, tmp_path / "run", max_steps=1)
    for label in read_pseudo_labels(tmp_path / "run" / "round1" / LABELS):
        assert label.landmark_std is not None
        assert label.landmark_std.mean() >= max(label.vote_std, label.label_std) - 1e-3
    assert "task: by_agreement" in (tmp_path / "run" / "round1" / "recipe.yaml").read_text()


def test_trainer_filters_pseudo_labels_by_quality(recipe_file, small_300w, unlabeled, torch_model, tmp_path):
    labels, _ = label_faces(torch_model, load_unlabeled(unlabeled, NOWHERE)[:4])
    grades = [(0.9, 1.0), (0.2, 1.0), (0.9, 9.0), (0.9, 1.0)]
    graded = [PseudoLabel(x.sample, *grade, 0.0) for x, grade in zip(labels, grades, strict=True)]
    write_pseudo_labels(tmp_path / "labels.csv", graded)
    flags = ["--data.root", str(small_300w), "--pseudo.labels", str(tmp_path / "labels.csv")]
    for extra, count in (((), 4), (("--pseudo.min-score", "0.5"), 3), (("--pseudo.max-std", "5"), 3)):
        trainer = Trainer(
            load_recipe(recipe_file, [*flags, *extra]), tmp_path / f"run{count}{len(extra)}{extra[:1]}"
        )
        assert len(trainer.split.pseudo) == count


def test_self_train_refuses_impossible_settings(recipe_file, small_300w, tmp_path):
    with pytest.raises(RecipeError, match="no unlabeled faces"):
        self_train(load_recipe(recipe_file), tmp_path / "run")
    with pytest.raises(RecipeError, match="needs model.curriculum"):
        load_recipe(recipe_file, ["--pseudo.task", "half", "--model.curriculum", "none"])
    with pytest.raises(RecipeError, match="need model.curriculum"):
        load_recipe(recipe_file, ["--self-training.unlabeled", "x", "--model.curriculum", "none"])
    both = load_recipe(recipe_file, ["--self-training.unlabeled", str(tmp_path), "--pseudo.labels", "x.csv"])
    with pytest.raises(RecipeError, match=r"pseudo.labels and pseudo.task are for one training"):
        self_train(both, tmp_path / "run")
    with pytest.raises(
        RecipeError, match=r"model.curriculum is a setting of the pip head, not of the map head"
    ):
        Trainer(
            load_recipe(
                recipe_file, ["--data.root", str(small_300w), "--model.head", "map", "--model.stride", "4"]
            ),
            tmp_path / "run",
        )


def test_unlabeled_faces_limit_is_reproducible(recipe_file, unlabeled):
    flags = ["--self-training.unlabeled", str(unlabeled), "--self-training.limit", "5"]
    chosen = [[f.name for f in unlabeled_faces(load_recipe(recipe_file, flags), NOWHERE)] for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 5
