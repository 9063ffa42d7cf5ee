"""The fuzz targets: readers of files of unknown origin, valid files to start from, and their mutations."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np

from pipnet.annotations.formats import read_annotations
from pipnet.bulk.image_reader import ImageReader
from pipnet.bulk.inputs import find_inputs, find_references
from pipnet.bulk.job_reader import AnnotatedFaces
from pipnet.bulk.rows import read_labels
from pipnet.bulk.store import Store
from pipnet.datasets.aflw import read_aflw
from pipnet.datasets.cofw import unpack_cofw
from pipnet.datasets.pseudo_labels import read_pseudo_labels
from pipnet.datasets.unlabeled import read_boxes
from pipnet.errors import PipnetError
from pipnet.evaluation.record import read_face_nmes, read_records
from pipnet.hub import packaged_models
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.external_model import ExternalModelConfig
from pipnet.inference.detectors.pipnet_face import PipnetFaceDetector
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import image_size, read_image
from pipnet.metadata import ModelMetadata
from pipnet.scheme import LandmarkScheme
from pipnet.training.recipe import load_recipe
from pipnet.video.reader import VideoReader
from robustness.fuzz import mutate, seeds

MAX_FRAMES = 40
"""Frames of a video that are read."""
MAX_IMAGES = 2000
"""References of a plan that are followed."""


@dataclass(frozen=True)
class Target:
    """A reader, and how its files are made."""

    seeds: Callable[[], Sequence[bytes]]
    """Returns valid files."""
    run: Callable[[bytes, Path], object]
    """Reads a file's content; the folder is empty and may be written to."""
    mutate: Callable[[bytes, Random], bytes] = mutate.mutate_bytes
    """Returns a changed file."""
    base: Callable[[], Sequence[object]] | None = None
    """Returns plain data, which hypothesis changes instead of ``mutate``."""
    share: float = 1.0
    """Number of cases, as a share of that of other targets; slow ones have less."""


# -- readers ------------------------------------------------------------------------------------------


def _image(content: bytes, folder: Path) -> None:
    path = _write(folder / "a.png", content)
    try:
        read_image(path, 4_000_000)
    finally:
        image_size(path)


def _video(content: bytes, folder: Path) -> None:
    for _ in islice(VideoReader(_write(folder / "a.mp4", content), 4_000_000), MAX_FRAMES):
        pass


def _matlab(content: bytes, folder: Path) -> None:
    _write(folder / "AFLWinfo_release.mat", content)
    (folder / "images").mkdir()
    _write(folder / "images" / "a.jpg", b"")
    read_aflw(folder, "train")


def _hdf5(content: bytes, folder: Path) -> None:
    _write(folder / "COFW_train_color.mat", content)
    unpack_cofw(folder, "train", folder)


def _model(content: bytes, folder: Path) -> None:
    landmarker = FaceLandmarker(str(_write(folder / "a.onnx", content)), "full_image", threads=1)
    for faces in landmarker([_photo(), _photo()[:40, :90]]):
        json.dumps(faces.to_dict()).encode()


def _detector(content: bytes, folder: Path) -> None:
    detector = PipnetFaceDetector(_write(folder / "a.onnx", content), 160, threads=1)
    landmarker = FaceLandmarker(_packaged(), detector, max_faces=20)
    landmarker(_photo())


def _archive(suffix: str) -> Callable[[bytes, Path], None]:
    def run(content: bytes, folder: Path) -> None:
        path = _write(folder / f"a{suffix}", content)
        reader = ImageReader(folder)
        plan = find_references(find_inputs([str(path)]), folder, None)
        for reference in islice(plan, MAX_IMAGES):
            try:
                reader(reference)
            except PipnetError:
                continue
        if next(plan, None) is not None and len(content) < MAX_IMAGES:
            raise AssertionError("the plan has more images than the file has bytes")

    return run


def _shard(content: bytes, folder: Path) -> None:
    job = json.loads(seeds.jobs()[0])
    (folder / "shards").mkdir()
    path = _write(folder / "shards" / "00000.parquet", content)
    _write(folder / "manifest.json", json.dumps(job["manifest"]).encode())
    list(read_labels([path], _metadata()))
    list(AnnotatedFaces(folder).read())


def _job(content: bytes, folder: Path) -> None:
    try:
        job = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(job, dict):
        return
    (folder / "shards").mkdir()
    (folder / ".work").mkdir()
    _write(folder / "shards" / "00000.parquet", _shard_seed())
    _write(folder / "manifest.json", json.dumps(job.get("manifest")).encode())
    for name in ("done", "plan"):
        lines = job.get(name)
        _write(
            folder / ".work" / f"{name}.jsonl",
            b"".join(
                json.dumps(line).encode() + b"\n" for line in (lines if isinstance(lines, list) else [lines])
            ),
        )
    try:
        with Store(folder) as store:
            store.manifest()
            store.records()
            store.final_records()
            list(store.shards())
    finally:
        AnnotatedFaces(folder)


def _scheme(content: bytes, folder: Path) -> None:
    scheme = LandmarkScheme.load(_write(folder / "a.toml", content))
    LandmarkScheme.from_dict(json.loads(json.dumps(scheme.to_dict())))
    LandmarkScheme.parse("b", scheme.to_toml(), "b")


def _recipe(content: bytes, folder: Path) -> None:
    load_recipe(_write(folder / "a.yaml", content)).to_dict()


def _annotations(name: str) -> Callable[[bytes, Path], None]:
    def run(content: bytes, folder: Path) -> None:
        _photo_file(folder / "a.png")
        read_annotations(_write(folder / name, content))

    return run


def _folder_annotations(name: str) -> Callable[[bytes, Path], None]:
    def run(content: bytes, folder: Path) -> None:
        _photo_file(folder / "a.png")
        _write(folder / name, content)
        read_annotations(folder)

    return run


def _yolo(content: bytes, folder: Path) -> None:
    """Take the content as ``data.yaml`` or as labels, by its beginning."""
    _photo_file(folder / "images" / "train" / "a.png")
    files = seeds_of("yolo-pose")
    config = next(file for file in files if b"kpt_shape" in file)
    labels = next(file for file in files if b"kpt_shape" not in file)
    is_config = b"train" in content or b":" in content[:200]
    _write(folder / "data.yaml", content if is_config else config)
    _write(folder / "labels" / "train" / "a.txt", labels if is_config else content)
    read_annotations(folder / "data.yaml")


def _metadata_text(content: bytes, _: Path) -> None:
    metadata = ModelMetadata.from_json(content.decode("utf-8", "surrogateescape"), "a.onnx")
    ModelMetadata.from_json(metadata.to_json(), "a.onnx")
    landmarks = metadata.scheme.landmarks
    if metadata.calibration is not None:
        values = np.full((1, landmarks), 0.5, np.float32)
        metadata.calibration.estimate(values, values, metadata.mean_face)
    for adapter in metadata.box_adapters.values():
        boxes = adapter.apply(np.array([[0, 0, 9, 9]], np.float32))
        metadata.crop.region(boxes[0], 100, 100)


def _record(content: bytes, folder: Path) -> None:
    path = _write(folder / "evaluation.json", content)
    try:
        read_records([path])
    finally:
        read_face_nmes(path)


def _tables(content: bytes, folder: Path) -> None:
    path = _write(folder / "a.csv", content)
    try:
        read_pseudo_labels(path)
    finally:
        read_boxes(path)


def _network_file(content: bytes, folder: Path) -> None:
    ExternalModelConfig.load(_write(folder / "a.toml", content))


def _braces(content: bytes, folder: Path) -> None:
    os.chdir(folder)  # names are relative: a pattern must not search the whole disk
    name = " ".join(content.decode("utf-8", "surrogateescape").split())
    find_inputs([name.replace("../", "./").lstrip("/ ")])


# -- what they share ----------------------------------------------------------------------------------

_CACHE: dict[str, object] = {}


def _cached(name: str, make: Callable[[], object]) -> object:
    if name not in _CACHE:
        _CACHE[name] = make()
    return _CACHE[name]


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _photo() -> np.ndarray:
    photo = _cached("photo", lambda: np.asarray(seeds.portrait(96)))
    assert isinstance(photo, np.ndarray)
    return photo


def _photo_file(path: Path) -> None:
    content = _cached("photo file", lambda: seeds.images()[2])
    assert isinstance(content, bytes)
    _write(path, content)


def _packaged() -> CropModel:
    model = _cached("model", lambda: FaceLandmarker("pipnet-tiny", threads=1).model)
    assert isinstance(model, CropModel)
    return model


def _metadata() -> ModelMetadata:
    landmarker = _cached("default", lambda: FaceLandmarker(str(packaged_models()["pipnet-68"]), threads=1))
    assert isinstance(landmarker, FaceLandmarker)
    return landmarker.metadata


def _shard_seed() -> bytes:
    content = _cached("shard", lambda: seeds.shards()[0])
    assert isinstance(content, bytes)
    return content


def seeds_of(file_format: str) -> list[bytes]:
    """Return valid files of a format of annotations."""

    def make() -> dict[str, list[bytes]]:
        folder = Path(os.environ["FUZZ_FOLDER"]) / "annotations"
        shutil.rmtree(folder, ignore_errors=True)
        return seeds.annotation_files(folder)

    found = _cached("annotations", make)
    assert isinstance(found, dict)
    files: list[bytes] = found[file_format]
    return files


def _of(file_format: str) -> Callable[[], Sequence[bytes]]:
    return lambda: seeds_of(file_format)


def _tables_of(read: Callable[[], Sequence[bytes]]) -> Callable[[], Sequence[object]]:
    return lambda: [json.loads(content) for content in read()]


def _recipe_tables() -> Sequence[object]:
    import yaml

    return [yaml.safe_load(content) for content in seeds.recipes()]


_RECORD = {
    **dict.fromkeys(("model", "data", "subset", "tta", "training"), "x"),
    **dict.fromkeys(("faces", "missed", "refine_steps", "input_size", "landmarks"), 3),
    "network": {"backbone": "x", "head": "pip", "neighbors": 5},
    "detector": None,
    "pixels": {"nme": 3.0},
    "official": {"nme": 3.0},
    "composites": False,
    "norm": [0, 1],
    "per_face": [{"face": "a", "nme": 3.0}],
}
_PSEUDO = (
    b"image,name,mean_score,vote_std,label_std,x0,y0,x1,y1\n"
    b"a.png,a,0.5,1,2,3,4,5,6\nb.png,b,0.5,1,2,3,4,5,6\n"
)
_BOXES = b"image,x,y,w,h,box_format\na.png,1,2,3,4,face\nb.png,,,,,\n"
_NETWORK = (
    b'model = "a.onnx"\nscheme = "300w"\ninput_size = 112\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
    b"crop_scale = 1.2\nmean_face = [[0, 0], [1, 1]]\n"
)
_NAMES = (b"{000..099}.tar", b"x/{a,b}{1..3}/*.txt", b"x/**/x[ab].parquet")


TARGETS: dict[str, Target] = {
    "image": Target(seeds.images, _image, mutate.mutate_png, share=2),
    "video": Target(seeds.videos, _video, share=1.5),
    "matlab": Target(seeds.matlab, _matlab, share=1.5),
    "hdf5": Target(seeds.hdf5, _hdf5, share=0.2),
    "onnx model": Target(seeds.models, _model, mutate.mutate_onnx, share=0.7),
    "onnx detector": Target(seeds.detectors, _detector, mutate.mutate_onnx, share=0.5),
    "tar": Target(seeds.tars, _archive(".tar"), mutate.mutate_tar),
    "parquet": Target(seeds.tables, _archive(".parquet")),
    "shard": Target(seeds.shards, _shard, share=0.7),
    "job": Target(seeds.jobs, _job, mutate.mutate_json_text),
    "scheme": Target(seeds.schemes, _scheme, mutate.mutate_text),
    "recipe": Target(seeds.recipes, _recipe, mutate.mutate_text),
    "network toml": Target(lambda: [_NETWORK], _network_file, mutate.mutate_text, share=0.5),
    "metadata": Target(seeds.metadata, _metadata_text, mutate.mutate_json_text),
    "coco": Target(_of("coco"), _annotations("a.json"), mutate.mutate_json_text, share=0.7),
    "label studio": Target(_of("label-studio"), _annotations("a.json"), mutate.mutate_json_text, share=0.7),
    "labelme": Target(_of("labelme"), _annotations("a.json"), mutate.mutate_json_text, share=0.5),
    "cvat": Target(_of("cvat"), _annotations("a.xml"), mutate.mutate_text, share=0.7),
    "imglab": Target(_of("imglab"), _annotations("a.xml"), mutate.mutate_text, share=0.5),
    "csv": Target(_of("csv"), _annotations("a.csv"), mutate.mutate_text, share=0.5),
    "yolo": Target(_of("yolo-pose"), _yolo, mutate.mutate_text, share=0.7),
    "pts": Target(_of("pts"), _folder_annotations("a.pts"), mutate.mutate_text, share=0.4),
    "tables": Target(lambda: [_PSEUDO, _BOXES], _tables, mutate.mutate_text, share=0.5),
    "record": Target(lambda: [json.dumps(_RECORD).encode()], _record, mutate.mutate_json_text, share=0.5),
    "input names": Target(lambda: _NAMES, _braces, mutate.mutate_text, share=0.5),
    "recipe (hypothesis)": Target(seeds.recipes, _recipe, base=_recipe_tables),
    "metadata (hypothesis)": Target(seeds.metadata, _metadata_text, base=_tables_of(seeds.metadata)),
    "job (hypothesis)": Target(seeds.jobs, _job, base=_tables_of(seeds.jobs)),
    "coco (hypothesis)": Target(_of("coco"), _annotations("a.json"), base=_tables_of(_of("coco")), share=0.7),
    "label studio (hypothesis)": Target(
        _of("label-studio"), _annotations("a.json"), base=_tables_of(_of("label-studio")), share=0.5
    ),
}
