"""``pipnet data``: preparing collections, converting and looking at labels, proposing a scheme."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipnet.annotations.formats import Annotations, Kind, read_annotations, write_annotations
from pipnet.cli import say
from pipnet.config import RuntimeConfig
from pipnet.datasets.load import load_samples, recognize_dataset
from pipnet.datasets.prepare import prepare as prepare_parts
from pipnet.datasets.registry import DATASETS
from pipnet.datasets.scheme_inference import Proposal, odd_pairs, propose_scheme
from pipnet.errors import DataError, PipnetError
from pipnet.evaluation.gallery.faces import FaceSet, read_faces
from pipnet.evaluation.gallery.page import INDEX, Heading, write_sheet
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import write_text
from pipnet.io.image import write_image


def prepare(name: str, source: Path, target: Path, /) -> int:
    """Check an official collection against its published sizes, and prepare it.

    The folder it leaves reads in a moment and serves as --data. Pictures that are files already stay where
    they are; those inside archives and videos are unpacked. The exit code is 1 where something is missing.

    Parameters
    ----------
    name
        300w, wflw, cofw, cofw68, aflw, lapa, menpo, menpo-profile, 300vw or celeba.
    source
        The folder that its archives were unpacked into.
    target
        The folder to write.
    """
    parts = []
    for part in prepare_parts(name, source, target):
        word = "absent" if part.absent else "ok" if part.complete else "missing"
        say(f"{word:9}{part}")
        parts.append(part)
    if all(part.complete for part in parts):
        return 0
    where = DATASETS[name].url if name in DATASETS else "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    say(f"not all of it is here; license and archives: {where}")
    return 1


def convert(
    source: Path,
    target: Path,
    /,
    *,
    to: Kind | None = None,
    images: Path | None = None,
    subset: str | None = None,
    scheme: str | None = None,
) -> None:
    """Turn labeled faces of one format, or of a collection, into another format. Nothing is overwritten.

    COCO and CSV keep which faces are for training and for tests; the other formats are refused such faces.

    Parameters
    ----------
    source
        A COCO or Label Studio .json, a CVAT .xml, a .csv, a folder of .pts files, or a collection.
    target
        A .json (COCO), .xml (CVAT), .csv, or a folder for .pts files.
    to
        The format to write, where the ending does not say it: coco, cvat, label-studio, pts, csv.
    images
        The folder that the pictures are in, if not beside the labels.
    subset
        Which part of a collection; its training part, or all there is, if not given.
    scheme
        Of a collection: give its points in this scheme, such as WFLW's 98 as 300w.
    """
    _must_be_new(target)
    if recognize_dataset(source) is None:
        annotations = read_annotations(source, images)
        if scheme or subset:
            raise DataError(f"{source}: --scheme and --subset are for collections")
    else:
        samples, loaded, _ = load_samples(source, subset, scheme)
        annotations = Annotations(samples, loaded.landmark_names)
    write_annotations(target, annotations, to)
    say(f"{target}: {len(annotations.samples):,} faces")


def scheme(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    images: Path | None = None,
    title: str | None = None,
) -> None:
    """Propose a landmark scheme for your own labeled faces: names, mirror pairs, neighbors, crop.

    Writes the TOML file, and beside it a picture of the mean face to check the numbers and pairs on.
    Nothing is overwritten.

    Parameters
    ----------
    source
        A COCO or Label Studio .json, a CVAT .xml, a .csv, or a folder of .pts files.
    output
        The .toml file to write.
    images
        The folder that the pictures are in, if not beside the labels.
    title
        One line that says what the landmarks are.
    """
    if output.suffix != ".toml":
        raise DataError(f"-o {output}: a scheme is a .toml file")
    picture = output.with_name(f"{output.stem}_mean_face.png")
    _must_be_new(output)
    _must_be_new(picture)
    proposal = propose_scheme(read_annotations(source, images), output.stem)
    if title:
        proposal = replace(proposal, scheme=replace(proposal.scheme, title=title))
    write_text(output, proposal.to_toml())
    write_image(picture, proposal.draw())
    Console(stderr=True).print(_table(proposal))
    for doubt in proposal.doubts:
        say(f"check: {doubt}")
    say(f"{output}, and {picture} to check it by: are the pairs right, and is the norm what you want?")
    words = ["pipnet", "train", "recipes/own.yaml", "--data", str(source), "--data.scheme", str(output)]
    words += ["--data.images", str(images)] if images else []
    words += ["--model.neighbors", str(proposal.neighbors), "--crop.scale", str(proposal.crop_scale)]
    if proposal.faces < 100:  # a batch of 32 would be a third of them, or more than there are
        words += ["--optim.batch-size", str(max(min(8, proposal.faces // 3), 2))]
    say(f"then: {shlex.join(words)}")


def view(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    images: Path | None = None,
    subset: str | None = None,
    scheme: str | None = None,
    model: str | None = None,
    limit: int = 1000,
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
) -> int:
    """Make a contact sheet of labeled faces: a page to open in a browser, from disk.

    Faces with their landmarks, to be sorted and filtered; with --model also where the model finds them and
    how far off it is. Nothing is overwritten. The exit code is 1 where a picture could not be read.

    Parameters
    ----------
    source
        A collection, your own annotations (a folder or file), a table of pseudo-labels, or what pipnet
        annotate wrote: its folder or one of its shards.
    output
        The folder to make. Open its index.html; the folder can be moved and sent as it is.
    images
        Folder of the pictures of your own annotations, if not beside them; of annotated ones, if moved.
    subset
        Part of a collection; its training part, or all there is, if not given.
    scheme
        What the landmarks of your own annotations or pseudo-labels are, so that lines join them: 300w, wflw,
        ... or FILE.toml; where the faces mirror otherwise, it says so. Of a collection: show its points in
        this scheme. With --model it is the model's.
    model
        A model's name, .onnx file, folder or hub id: show what it finds, in the labels' own boxes.
    limit
        Show at most so many faces, evenly spread over the set; the page says what is left out.
    """
    if limit < 1:
        raise DataError(f"--limit must be at least 1, not {limit}")
    if model and scheme:
        raise DataError("--scheme and --model: the model's own scheme is shown, leave --scheme out")
    output = output.resolve()
    _must_be_new(output)
    landmarker = FaceLandmarker.from_pretrained(model, **asdict(runtime)) if model else None
    wanted = landmarker.model.metadata.scheme if landmarker else scheme
    found = read_faces(source, limit, subset, wanted, images)
    if scheme:
        _check_pairs(found)
    heading = Heading(f"{source.resolve().name} {subset or ''}".strip(), found.total, found.unreadable)
    bad = write_sheet(output, found.faces, found.scheme, heading, landmarker)
    for line in bad:
        say(f"error: {line}")
    without = f"; {found.unreadable:,} pictures were annotated with an error" if found.unreadable else ""
    say(f"{output / INDEX}: {len(found.faces) - len(bad):,} of {found.total:,} faces{without}")
    return 1 if bad else 0


def _check_pairs(found: FaceSet) -> None:
    """Say so if the scheme mirrors in another way than the faces do."""
    with contextlib.suppress(PipnetError):  # no whole face, or no SciPy
        odd = odd_pairs([face.sample for face in found.faces], found.scheme)
        if odd:
            say(f"check: {odd}")


def _must_be_new(path: Path) -> None:
    """Refuse to write where something is.

    Raises:
        PipnetError: there is a file, or a folder with something in it.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise PipnetError(f"{path} is there already: choose another, or remove it first")


def _table(proposal: Proposal) -> Table:
    scheme = proposal.scheme
    table = Table("", "landmark", "in the mirror", "mean x", "mean y", title=escape(scheme.title))
    for i, (x, y) in enumerate(proposal.mean_face.tolist()):
        other = int(scheme.flip_permutation[i])
        partner = scheme.names[other] if other != i else "itself"
        table.add_row(str(i), escape(scheme.names[i]), escape(partner), f"{x:.2f}", f"{y:.2f}")
    return table
