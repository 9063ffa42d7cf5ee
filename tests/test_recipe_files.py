"""Recipe files: flags, base files, help, and errors in one line."""

import dataclasses
import subprocess
import sys

import pytest

from pipnet.cli import main
from pipnet.errors import RecipeError
from pipnet.training.recipe import Recipe, load_recipe


def test_load_recipe_applies_flags(small_recipe_file):
    recipe = load_recipe(small_recipe_file, ["--optim.lr", "2e-4", "--model.merge=official", "--seed", "7"])
    assert (recipe.optim.lr, recipe.model.merge, recipe.seed) == (2e-4, "official", 7)
    assert recipe.optim.epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", "lrr.*--optim.lr"),
        ("optm: {lr: 1}", "optm.*--optim.lr"),
        ("optim: {lr: fast}", "fast"),
        ("optim: {lr: -1}", "above 0"),
        ("optim: {schedule: cosine}", "cosine"),
        ("data: {validation: 1.5}", "validation"),
        ("model: {head: pipp}", "pipp"),
        ("- 1", "a table of keys"),
        ("a: [", "not YAML"),
        ("seed: 1\nname: a\nseed: 2", "'seed' is repeated"),
        ("model: {stride: 32, stride: 16}", "'stride' is repeated"),
        ("1: 2", "a key must be a word, not 1"),
        ("optim: {2: 1}", "a key must be a word, not 2"),
        ("model: {neck_width: 0}", "model.neck_width must be at least 1"),
        ("{crop: {box: dataset}, pseudo: {labels: a.csv}}", "no box of a dataset"),
        ("base: 3", "base is the name of a recipe file, not 3"),
        ("base: none.yaml", "none.yaml: recipe cannot be read"),
        ("base: bad.yaml", "inherit in a circle: .*bad.yaml -> .*bad.yaml"),
        ("pseudo: {least_score: 1}", r"pseudo.least_score is of an earlier .* pipnet migrate .*bad.yaml$"),
        ("crop: {box: given}", r"crop.box is of an earlier format, convert it: pipnet migrate .*bad.yaml$"),
    ],
)
def test_load_recipe_refuses_bad_recipes_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_train_command_reports_bad_recipes(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    for text in ("optim: {lrr: 1}", "- 1", "a: [", "base: bad.yaml"):
        path.write_text(text)
        with pytest.raises(RecipeError) as error:
            load_recipe(path)
        assert main(["train", str(path)]) == 1
        assert capsys.readouterr().err == f"error: {error.value}\n"


def test_train_command_refuses_bad_flags_and_missing_recipes(small_recipe_file, tmp_path, small_300w, capsys):
    with pytest.raises(RecipeError, match="--optim.lr"):
        load_recipe(small_recipe_file, ["--optim.lrr", "1"])
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    assert main(["train", str(small_recipe_file)]) == 1
    assert "--data" in capsys.readouterr().err
    flags = ["--optim.batch-size", "500"]
    assert main(["train", str(small_recipe_file), "--data", str(small_300w), *flags]) == 1
    assert "fewer than a batch" in capsys.readouterr().err
    assert main(["train", str(small_recipe_file), "--data", str(small_300w), "--data.limit", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--optim.clip -1", "optim.clip must be above 0"),
        ("--optim.ema 1.5", "optim.ema must be at least 0 and at most 0.99999, not 1.5"),
        ("--optim.warmup 2", "optim.warmup"),
        ("--optim.weight-decay -1", "optim.weight_decay"),
        ("--augment.flip 7", "augment.flip"),
        ("--augment.downscale-by 0", "augment.downscale_by"),
        ("--workers -1", "workers must be at least 0 and at most 1024"),
        ("--workers 2000", "workers must be at least 0 and at most 1024"),
        ("--seed -1", "seed"),
        ("--crop.scale inf", "crop.scale"),
        ("--optim.schedule step", "milestones"),
        ("--optim.schedule step --optim.milestones 500", "milestones"),
        ("--optim.milestones 2", "need optim.schedule step"),
        ("--self-training.limit -5", "self_training.limit"),
        ("--model.head coord --optim.batch-size 1", "batch_size must be at least 2"),
    ],
)
def test_load_recipe_refuses_numbers_out_of_range(small_recipe_file, flags, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(small_recipe_file, flags.split())


def test_load_recipe_merges_base_files(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.yaml").write_text("optim: {lr: 0.1, epochs: 7}\nself_training: {tasks: [full]}")
    (tmp_path / "base" / "b.yaml").write_text("base: a.yaml\nname: b\noptim: {lr: 0.2, batch_size: 3}")
    path = tmp_path / "c.yaml"
    path.write_text("base: base/b.yaml\noptim: {batch_size: 4}\nself_training: {tasks: [full, full]}")
    recipe = load_recipe(path, ["--optim.weight-decay", "0"])
    optim = recipe.optim
    assert (optim.lr, optim.epochs, optim.batch_size, optim.weight_decay) == (0.2, 7, 4, 0)
    assert (recipe.name, recipe.self_training.tasks) == ("b", ("full", "full"))


def test_recipe_and_its_help_do_not_import_torch():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'timm', 'accelerate', 'yaml')))\n"
        "import pipnet.training.recipe\n"
        "from pipnet.cli import main\n"
        "sys.exit(main(['train', '--help']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for flag in flags_of(Recipe()):
        assert f"--{flag}" in run.stdout
    assert "Passes over the training faces." in run.stdout


def flags_of(config, prefix=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        yield from flags_of(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
