"""``pipnet data``: prepare datasets, convert and view labels, propose a landmark scheme."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from pipnet.annotations.formats import Annotations, FileFormat, read_annotations, write_annotations
from pipnet.cli import say, say_errors
from pipnet.cli.options import DEFAULT_RUNTIME, ImagesFolder, Output, RuntimeFlags, TrainingSubset
from pipnet.cli.streams import print_table
from pipnet.config import LandmarkerConfig
from pipnet.datasets.load import load_samples, open_bundle, recognize_dataset
from pipnet.datasets.paper_crops import PaperCrops, unlabeled_faces_of
from pipnet.datasets.prepare import prepare as prepare_subsets
from pipnet.datasets.registry import DATASETS
from pipnet.datasets.scheme_proposal import Proposal, check_mirror_pairs, propose_scheme
from pipnet.datasets.unlabeled import write_boxes
from pipnet.errors import DataError, PipnetError
from pipnet.evaluation.gallery.faces import read_faces
from pipnet.evaluation.gallery.page import INDEX, Heading, write_gallery
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import write_text
from pipnet.io.image import write_image
from pipnet.io.text import counted


def prepare(name: str, source: Path, target: Path, /) -> int:
    """Check a published dataset against its published sizes, and prepare it.

    The prepared folder loads quickly and is used as --data. Images that are files already stay in place;
    those in archives and videos are unpacked. The exit code is 1 if anything is missing.

    Parameters
    ----------
    name
        300w, cfp, wflw, cofw, cofw68, aflw, lapa, menpo, menpo-profile, 300vw or celeba.
    source
        The folder of the unpacked archives.
    target
        The folder to write.
    """
    reports = []
    for report in prepare_subsets(name, source, target):
        state = "optional" if report.absent else "ok" if report.complete else "missing"
        say(f"{state:9}{report}")
        reports.append(report)
    if all(report.complete for report in reports):
        return 0
    url = DATASETS[name].url if name in DATASETS else "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    say(f"the dataset is incomplete; license and archives: {url}")
    return 1


def convert(
    source: Path,
    target: Path,
    /,
    *,
    to: FileFormat | None = None,
    images: ImagesFolder = None,
    subset: TrainingSubset = None,
    scheme: str | None = None,
) -> None:
    """Convert labeled faces, or those of a dataset, to another file format. Nothing is overwritten.

    COCO, CSV and YOLO-pose store which faces are for training and for tests; other formats refuse faces with
    a split.

    Parameters
    ----------
    source
        A COCO, Label Studio or LabelMe .json, a CVAT or imglab .xml, a .csv, a YOLO-pose data.yaml, a folder
        of .pts or LabelMe files, or a dataset.
    target
        A .json (COCO), .xml (CVAT), .csv, or a folder (.pts files).
    to
        The format to write, if the suffix does not tell it: coco, cvat, label-studio, csv, imglab (an .xml),
        or a folder as pts, labelme, yolo-pose (with links to the images).
    scheme
        For a dataset: convert the points to this scheme, such as WFLW's 98 points to 300w.
    """
    _check_is_new(target)
    if recognize_dataset(source) is None:
        annotations = read_annotations(open_bundle(source), images)
        if scheme or subset:
            raise DataError(f"{source}: --scheme and --subset are for datasets only")
    else:
        samples, loaded, _ = load_samples(source, subset, scheme)
        annotations = Annotations(samples, loaded.landmark_names)
    write_annotations(target, annotations, to)
    say(f"{target}: {counted(len(annotations.samples), 'face')}")


def boxes(
    source: Path,
    /,
    *,
    output: Output,
    subset: TrainingSubset = None,
    crops: PaperCrops = "none",
) -> None:
    """Write the boxes of a dataset's faces, without their labels, for pipnet self-train --unlabeled.

    Nothing is overwritten.

    Parameters
    ----------
    source
        A dataset, or the folder of CelebA with celeba_bboxes.txt or list_bbox_celeba.txt.
    output
        The .csv file to write.
    crops
        none: the landmark boxes. v1 (arXiv v1) or gssl (IJCV 2021, learning across datasets): the paper's
        crops of the dataset, which the faces keep in every round; of CelebA the authors' celeba_bboxes.txt is
        needed.
    """
    if output.suffix.lower() != ".csv":
        raise DataError(f"-o {output}: a table of boxes is a .csv file")
    _check_is_new(output)
    faces = unlabeled_faces_of(source, subset, crops)
    write_boxes(output, faces)
    say(f"{output}: {counted(len(faces), 'face')}")


def scheme(
    source: Path,
    /,
    *,
    output: Output,
    images: ImagesFolder = None,
    title: str | None = None,
) -> None:
    """Propose a landmark scheme for your own labeled faces: names, mirror pairs, neighbors, crop.

    Writes the TOML file, and beside it an image of the mean face to check landmark numbers and pairs.
    Nothing is overwritten.

    Parameters
    ----------
    source
        Your labeled faces, in any of the formats of pipnet data convert.
    output
        The .toml file to write.
    title
        A description of the landmarks in one line.
    """
    if output.suffix != ".toml":
        raise DataError(f"-o {output}: a scheme is a .toml file")
    drawing = output.with_name(f"{output.stem}_mean_face.png")
    _check_is_new(output)
    _check_is_new(drawing)
    proposal = propose_scheme(read_annotations(source, images), output.stem)
    if title:
        proposal = replace(proposal, scheme=replace(proposal.scheme, title=title))
    write_text(output, proposal.to_toml())
    write_image(drawing, proposal.draw())
    print_table(_table(proposal))
    for doubt in proposal.doubts:
        say(f"check: {doubt}")
    say(f"{output}: check the mirror pairs in {drawing}, and whether the norm is the one you need")
    command = ["pipnet", "train", "recipes/own.yaml", "--data", str(source), "--data.scheme", str(output)]
    command += ["--data.images", str(images)] if images else []
    command += ["--model.neighbors", str(proposal.neighbors), "--crop.scale", str(proposal.crop_scale)]
    if proposal.faces < 100:  # the default batch of 32 would be at least a third of them
        command += ["--optim.batch-size", str(max(min(8, proposal.faces // 3), 2))]
    say(f"then: {shlex.join(command)}")


def view(
    source: Path,
    /,
    *,
    output: Output,
    images: Path | None = None,
    subset: TrainingSubset = None,
    scheme: str | None = None,
    model: str | None = None,
    limit: int = 1000,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
) -> int:
    """Write a contact sheet of labeled faces: an HTML page that opens without a server.

    The page shows faces with their landmarks and can be sorted and filtered. With --model it also shows the
    model's landmarks and their error. Nothing is overwritten. The exit code is 1 if an image is unreadable.

    Parameters
    ----------
    source
        A dataset, your own annotations (a folder or file), a table of pseudo-labels, or the output of pipnet
        annotate: its folder or one of its shards.
    output
        The folder to write. Open its index.html; the folder can be moved and sent.
    images
        The folder of the images of your own annotations, if they are not beside them, or of annotated images
        that were moved.
    scheme
        The landmark scheme of your own annotations or pseudo-labels, to draw its lines: 300w, wflw, ... or
        FILE.toml. Differing mirror pairs are reported. For a dataset: convert the points to this scheme. With
        --model the scheme is that of the model.
    model
        A model's name, .onnx file, folder or hub ID: show its landmarks, predicted in the labels' boxes.
    limit
        The maximum number of faces, evenly spaced over the set; the page states how many are left out.
    """
    if limit < 1:
        raise DataError(f"--limit must be at least 1, not {limit}")
    if model and scheme:
        raise DataError("--scheme and --model exclude each other: the page shows the scheme of the model")
    output = output.resolve()
    _check_is_new(output)
    landmarker = FaceLandmarker.from_configs(LandmarkerConfig(model), runtime) if model else None
    faces = read_faces(
        source, limit, subset, landmarker.model.metadata.scheme if landmarker else scheme, images
    )
    if scheme:
        with contextlib.suppress(PipnetError):  # no complete face, or SciPy is not installed
            message = check_mirror_pairs([face.sample for face in faces.faces], faces.scheme)
            if message:
                say(f"check: {message}")
    heading = Heading(f"{source.resolve().name} {subset or ''}".strip(), faces.total, faces.unreadable)
    errors = write_gallery(output, faces.faces, faces.scheme, heading, landmarker)
    say_errors(errors)
    unreadable = f"; {counted(faces.unreadable, 'image')} with an error" if faces.unreadable else ""
    say(f"{output / INDEX}: {len(faces.faces) - len(errors):,} of {faces.total:,} faces{unreadable}")
    return 1 if errors else 0


def _check_is_new(path: Path) -> None:
    """Refuse to overwrite a file or a folder that is not empty."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise PipnetError(f"{path} exists already: choose another name, or remove it first")


def _table(proposal: Proposal) -> Table:
    names, partners = proposal.scheme.landmark_names, proposal.scheme.flip_permutation.tolist()
    table = Table("", "landmark", "in the mirror", "mean x", "mean y", title=proposal.scheme.title)
    for i, (x, y) in enumerate(proposal.mean_face.tolist()):
        partner = names[partners[i]] if partners[i] != i else "itself"
        table.add_row(str(i), names[i], partner, f"{x:.2f}", f"{y:.2f}")
    return table
