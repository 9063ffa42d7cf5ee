"""Reading and writing users' own annotations in all supported file formats.

A set may have any number of landmarks, the same for each face. Each format has a module. They share the set
(`annotation_set`), its construction (`face_collector`), finding images by name (`image_finder`), XML
(`xml_file`) and checking values (`checked_values`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from pipnet.annotations.annotation_set import Annotations
from pipnet.annotations.checked_values import read_json
from pipnet.annotations.coco import read_coco, write_coco
from pipnet.annotations.csv_landmarks import read_csv, write_csv
from pipnet.annotations.cvat import read_cvat, write_cvat
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.imglab import read_imglab, write_imglab
from pipnet.annotations.label_studio import read_label_studio, write_label_studio
from pipnet.annotations.labelme import is_labelme, labelme_files, read_labelme, write_labelme
from pipnet.annotations.pts_folder import read_pts_folder, write_pts_folder
from pipnet.annotations.xml_file import parse_xml
from pipnet.annotations.yolo_pose import CONFIG, SPLITS, read_yolo_pose, write_yolo_pose
from pipnet.errors import DataError
from pipnet.io.discovery import files_below
from pipnet.io.text import is_file, is_folder

__all__ = [
    "Annotations",
    "FileFormat",
    "ImageFinder",
    "folder_format",
    "read_annotations",
    "write_annotations",
]

FileFormat = Literal["coco", "cvat", "label-studio", "pts", "csv", "imglab", "labelme", "yolo-pose"]
"""Formats that can be written."""
_LOG = logging.getLogger(__name__)


class _Writer(NamedTuple):
    """A format's function, and what else than points it can express."""

    write: Callable[[Path, Annotations], None]
    subsets: bool = False
    """Also the photo of each face."""
    splits: bool = False
    """Of the subsets, train, val and test alone."""
    fractions: bool = True
    """Coordinates between whole pixels."""
    boxes: bool = False
    visibility: bool = False
    names: bool = False


_WRITERS: dict[str, _Writer] = {
    "coco": _Writer(write_coco, subsets=True, boxes=True, visibility=True, names=True),
    "cvat": _Writer(write_cvat, visibility=True, names=True),
    "label-studio": _Writer(write_label_studio, boxes=True, names=True),
    "pts": _Writer(write_pts_folder),
    "csv": _Writer(write_csv, subsets=True, boxes=True, names=True),
    "imglab": _Writer(write_imglab, boxes=True, names=True, fractions=False),
    "labelme": _Writer(write_labelme, boxes=True, visibility=True, names=True),
    "yolo-pose": _Writer(write_yolo_pose, splits=True, boxes=True, visibility=True, names=True),
}
_BY_SUFFIX = {".json": "coco", ".xml": "cvat", ".csv": "csv", "": "pts"}


def read_annotations(path: Path, images: Path | None = None) -> Annotations:
    """Return the faces of an annotation file or folder.

    The suffix and the content tell the format: ``.csv``, ``.xml`` (CVAT or imglab), ``.json`` (COCO, Label
    Studio or LabelMe), ``.yaml`` (YOLO-pose), or a folder with ``data.yaml`` (YOLO-pose), ``.pts`` files or
    LabelMe files.

    Args:
        path: the file or folder.
        images: the folder of its images; the folder of the file if None.

    Raises:
        DataError: the file is invalid, or an image is missing or ambiguous; file and place are named.
    """
    folder = is_folder(path)
    if not folder and not is_file(path):
        raise DataError(f"{path}: no such file")
    if images is not None and not is_folder(images):
        raise DataError(f"{images}: no such folder of images")
    finder = ImageFinder(images or (path if folder else path.parent))
    suffix = path.suffix.lower()
    if folder:
        return _read_folder(path, finder)
    if suffix == ".csv":
        return read_csv(path, finder)
    if suffix == ".xml":
        return _read_xml(path, finder)
    if suffix in {".yaml", ".yml"}:
        return read_yolo_pose(path, finder)
    if suffix == ".json":
        content = read_json(path)
        if is_labelme(content):
            return read_labelme([path], str(path), finder)
        read = read_label_studio if isinstance(content, list) else read_coco
        return read(path, content, finder)
    raise DataError(
        f"{path}: annotations are .json (COCO, Label Studio, LabelMe), .xml (CVAT, imglab), .csv, "
        ".yaml (YOLO-pose), or a folder of .pts or LabelMe files"
    )


def folder_format(path: Path) -> FileFormat | None:
    """Return the format of a folder of annotations; None if it holds none.

    Raises:
        DataError: a JSON file cannot be read, so that it is not clear whether it is of LabelMe.
    """
    if is_file(path / CONFIG):
        return "yolo-pose"
    if any(file.suffix.lower() == ".pts" for file in files_below(path)):
        return "pts"
    return "labelme" if next(labelme_files(path), None) else None


def _read_folder(path: Path, finder: ImageFinder) -> Annotations:
    file_format = folder_format(path)
    if file_format == "yolo-pose":
        return read_yolo_pose(path / CONFIG, finder)
    if file_format == "pts":
        return read_pts_folder(path, finder)
    if file_format == "labelme":
        return read_labelme(list(labelme_files(path)), str(path), finder)
    raise DataError(f"{path}: no .pts files, no LabelMe files, and no {CONFIG}")


def _read_xml(path: Path, finder: ImageFinder) -> Annotations:
    root = parse_xml(path)
    read = {"annotations": read_cvat, "dataset": read_imglab}.get(root.tag)
    if read is None:
        raise DataError(
            f"{path}: neither CVAT nor imglab: the root is <{root.tag[:40]}>, not <annotations> or <dataset>"
        )
    return read(path, root, finder)


def write_annotations(path: Path, annotations: Annotations, file_format: FileFormat | None = None) -> None:
    """Write faces in a format. Files are written atomically; an existing file is replaced.

    Args:
        path: the file, or the folder for ``.pts``, LabelMe and YOLO-pose.
        annotations: the faces.
        file_format: the format; by the suffix if None: COCO for ``.json``, CVAT for ``.xml``, ``.pts`` files
            without suffix.

    Raises:
        DataError: the format is unknown, or cannot express a face or whether it is for training or testing.
        WriteError: the file cannot be written.
        ImageError: an image cannot be opened to read its size, which most formats store.
    """
    key = file_format or ("pts" if is_folder(path) else _BY_SUFFIX.get(path.suffix.lower(), ""))
    if key not in _WRITERS:
        raise DataError(f"{path}: not .json, .xml or .csv; or name a format: {', '.join(_WRITERS)}")
    annotations.check(str(path))
    _check_loss(path, annotations, key, _WRITERS[key])
    _WRITERS[key].write(path, annotations)


def _check_loss(path: Path, annotations: Annotations, file_format: str, writer: _Writer) -> None:
    """Refuse to lose the split into training and test faces; log everything else that is left out."""
    samples = annotations.samples
    lost = []
    if not writer.subsets:
        lost = sorted({name for sample in samples for name in sample.attributes})
        split = [name for name in lost if name in ("train", "test")]
        if writer.splits:
            lost = [name for name in lost if name not in SPLITS]
        elif split:
            raise DataError(
                f"{path}: {file_format} cannot express the subset of a face ({', '.join(split)}): "
                "write COCO or CSV"
            )
        if annotations.shares_photos:
            lost.append("which images are cut from one photo")
    if not writer.boxes and any(sample.box is not None for sample in samples):
        lost.append("boxes")
    if not writer.visibility and any(s.visible is not None and not s.visible.all() for s in samples):
        lost.append("which landmarks are hidden")
    if not writer.names and annotations.names:
        lost.append("landmark names")
    if not writer.fractions and any((sample.points % 1 > 0).any() for sample in samples):
        lost.append("fractions of pixels")
    if lost:
        _LOG.warning("%s: left out, because %s cannot express it: %s", path, file_format, ", ".join(lost))
