"""The distilled ResNet-18 of benchmarks/accuracy/heads: it resumes exactly, and a training starts from it."""

import importlib
import itertools
from pathlib import Path

import pytest
import safetensors.torch

from pipnet.model.backbones import Backbone

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_distillation_resumes_and_backbone_starts_from_it(shared, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    distillation = importlib.import_module("accuracy.heads.distill_backbone")
    faces = list(itertools.islice(distillation._faces(shared / "data"), 24))
    monkeypatch.setattr(distillation, "_faces", lambda _: faces)
    for name, value in {"EPOCHS": 2, "BATCH_SIZE": 8, "HELD_OUT": 8, "SIDE": 64}.items():
        monkeypatch.setattr(distillation, name, value)

    def distill(name: str) -> Path:
        return distillation.distill(shared / "data", shared / "backbones", tmp_path / name)

    weights = distill("complete")
    with monkeypatch.context() as patch:
        losses = iter([1.0])  # the second epoch finds none
        patch.setattr(distillation, "_loss", lambda *_: next(losses))
        with pytest.raises(StopIteration):
            distill("resumed")
    assert distill("resumed").read_bytes() == weights.read_bytes()
    assert not (tmp_path / "resumed" / "state.pt").exists()

    student = safetensors.torch.load_file(weights)
    net = Backbone("resnet18", pretrained=True, weights=weights).net
    assert all((student[name] == value).all() for name, value in net.state_dict().items())
