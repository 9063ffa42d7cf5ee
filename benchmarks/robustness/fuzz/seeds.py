"""Valid files of each format, small, from which the fuzz targets start."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pipnet.annotations.formats import Annotations, read_annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.bulk.inputs import ImageReference
from pipnet.bulk.rows import error_row, face_rows, to_parquet
from pipnet.bulk.store import FORMAT, ShardRecord
from pipnet.hub import packaged_detector, packaged_models
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image, write_image
from pipnet.scheme import BUILT_IN, LandmarkScheme

ROOT = Path(__file__).parents[3]
PORTRAIT = ROOT / "examples" / "astronaut.jpg"


def portrait(side: int = 96) -> PIL.Image.Image:
    """Return a small photo of a face."""
    return PIL.Image.open(PORTRAIT).convert("RGB").resize((side, side))


def images() -> list[bytes]:
    """Return a photo in each image format, and in unusual layouts."""
    photo = portrait(40)
    formats: list[tuple[str, dict[str, Any]]] = [
        *(("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {})),
        *(("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("TGA", {}), ("AVIF", {})),
        ("TIFF", {"compression": "jpeg"}),
    ]
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    files = [_saved(photo, name, **options) for name, options in formats]
    files += [
        _saved(photo, "JPEG", exif=exif),
        _saved(photo.convert("P"), "PNG"),
        _saved(photo.convert("1"), "TIFF"),
    ]
    deep = PIL.Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    return [*files, _saved(deep, "PNG"), _saved(deep, "TIFF"), _saved(photo.convert("CMYK"), "JPEG")]


def _saved(image: PIL.Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def videos() -> list[bytes]:
    """Return a clip of eight frames in several containers and codecs."""
    import av

    kinds = [
        *(("mp4", "mpeg4", "yuv420p"), ("mov", "mjpeg", "yuvj420p"), ("matroska", "libx264", "yuv420p")),
        *(("avi", "mpeg4", "yuv420p"), ("mpegts", "mpeg2video", "yuv420p"), ("flv", "flv", "yuv420p")),
        *(
            ("nut", "rawvideo", "bgr24"),
            ("yuv4mpegpipe", "wrapped_avframe", "yuv420p"),
            ("gif", "gif", "rgb8"),
        ),
        ("webm", "libvpx", "yuv420p"),
    ]
    files = []
    frame = np.asarray(portrait(48).crop((0, 0, 48, 32)))
    for container_name, codec, pixels in kinds:
        file = io.BytesIO()
        with av.open(file, "w", format=container_name) as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
            for number in range(8):
                picture = av.VideoFrame.from_ndarray(np.roll(frame, number, axis=1), format="rgb24")
                container.mux(stream.encode(picture.reformat(format=pixels)))
            container.mux(stream.encode(None))
        files.append(file.getvalue())
    return files


def matlab() -> list[bytes]:
    """Return the file of AFLW with two faces, plain and compressed."""
    from scipy.io import savemat

    names = np.array([["a.jpg"], ["b.jpg"]], dtype=object)
    table = {
        "bbox": np.ones((2, 4)) * [1, 9, 2, 8],
        "data": np.arange(76.0).reshape(2, 38),
        "mask_new": np.ones((2, 19), np.uint8),
        "nameList": names,
        "ra": np.array([[2, 1]], np.uint16),
    }
    files = [io.BytesIO(), io.BytesIO()]
    for file, compressed in zip(files, (False, True), strict=True):
        savemat(file, table, do_compression=compressed)
    return [file.getvalue() for file in files]


def hdf5() -> list[bytes]:
    """Return the file of COFW with two faces, plain, compressed, and with data in other places."""
    return [_cofw(compression) for compression in (None, "gzip")] + [
        _cofw(place=p) for p in ("file", "link", "huge")
    ]


def _cofw(compression: str | None = None, place: str | None = None) -> bytes:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        image = np.asarray(portrait(24)).transpose(2, 1, 0)
        cells = content.create_dataset("IsTr", (1, 2), h5py.ref_dtype)
        for i in range(2):
            cells[0, i] = content.create_dataset(f"#refs#/{i}", data=image, compression=compression).ref
        content.create_dataset("phisTr", data=np.ones((87, 2)), compression=compression)
        if place == "file":
            content.create_dataset("bboxesTr", (4, 2), "f8", external=[("/dev/zero", 0, 64)])
        elif place == "link":
            content["bboxesTr"] = h5py.ExternalLink("/dev/stdin", "x")
        elif place == "huge":
            content.create_dataset("bboxesTr", (4, 2**40), "f8", chunks=(4, 1024))
        else:
            content["bboxesTr"] = np.ones((4, 2))
    return file.getvalue()


def models() -> list[bytes]:
    """Return the smallest model and one in int8."""
    files = packaged_models()
    return [
        min(files.values(), key=lambda path: path.stat().st_size).read_bytes(),
        files["pipnet-68-int8"].read_bytes(),
    ]


def detectors() -> list[bytes]:
    """Return the packaged face detector."""
    return [packaged_detector().read_bytes()]


def tars() -> list[bytes]:
    """Return tar files of three images in each format of headers."""
    files = []
    for header_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=header_format) as tar:
            for name in ("a.png", "b/" + "c" * 80 + ".png", "\u00e4.png"):
                content = _saved(portrait(16), "PNG")
                member = tarfile.TarInfo(name)
                member.size, member.pax_headers = len(content), {"comment": "x"}
                tar.addfile(member, io.BytesIO(content))
        files.append(file.getvalue())
    return files


def tables() -> list[bytes]:
    """Return Parquet tables of images as bytes, as structures, and as paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _saved(portrait(16), "PNG")
    columns = [
        {"image": pa.array([content, None, content])},
        {"image": pa.array([{"bytes": content, "path": "a.png"}] * 3)},
        {"path": pa.array(["a.png", "b.png", ""])},
    ]
    files = []
    for column in columns:
        file = io.BytesIO()
        pq.write_table(pa.table(column), file, row_group_size=2)
        files.append(file.getvalue())
    return files


def faces() -> Any:
    """Return the face of the photo with its landmarks."""
    return FaceLandmarker(threads=1, detector="full_image")(read_image(PORTRAIT))


def shards() -> list[bytes]:
    """Return a shard of a job."""
    return [
        to_parquet(
            [*face_rows("a.png", faces()), {"image": "b.png", "width": 9, "height": 9}, error_row("c", "x")]
        )
    ]


def jobs() -> list[bytes]:
    """Return the files of an unfinished and a finished job, as one JSON each."""
    scheme = LandmarkScheme.load("300w").to_dict()
    record = asdict(ShardRecord(0, 3, 1, 1, 3, "0" * 64))
    manifest = {
        "format": FORMAT,
        "pipnet": "0",
        "model": {"name": "m", "sha256": "0" * 64, "license": "x", "scheme": scheme},
        "settings": {"shard_size": 4},
        "inputs": ["/tmp/a"],  # noqa: S108
        "column": None,
        "base": "/tmp",  # noqa: S108
        "images": 3,
        "plan": "0" * 64,
    }
    plan = [[ImageReference("file", "a.png"), ImageReference("tar", "a.tar", "b.png", 512, 9)]]
    return [
        json.dumps({"manifest": manifest, "done": [record], "plan": plan}).encode(),
        json.dumps({"manifest": {**manifest, "shards": [record]}, "done": [], "plan": []}).encode(),
    ]


def schemes() -> list[bytes]:
    """Return the built-in schemes."""
    return [LandmarkScheme.load(name).to_toml().encode() for name in BUILT_IN]


def recipes() -> list[bytes]:
    """Return recipes, one with aliases."""
    files = sorted((ROOT / "recipes").glob("*.yaml"))[:6]
    aliases = "optim: &a {lr: 1e-3, epochs: 3}\naugment: {blur: 0.1}\nmodel: {neighbors: 5}\n"
    return [path.read_bytes() for path in files] + [aliases.encode()]


def annotation_files(folder: Path) -> dict[str, list[bytes]]:
    """Return two faces in each format of annotations, by the name of the target."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "a.png"
    write_image(image, np.asarray(portrait(96)))
    points = (np.random.default_rng(0).random((5, 2)) * 80 + 5).astype(np.float32)
    names = tuple(f"p_{i}" for i in range(5))
    samples = [
        FaceSample(image, points + i, f"a#{i}", "a", np.array([1, 1, 90, 90], np.float32)) for i in range(2)
    ]
    targets = {
        "coco": "coco.json",
        "cvat": "cvat.xml",
        "imglab": "imglab.xml",
        "csv": "landmarks.csv",
        "label-studio": "studio.json",
    }
    found: dict[str, list[bytes]] = {}
    for file_format, name in targets.items():
        write_annotations(folder / name, Annotations(samples, names), file_format)  # type: ignore[arg-type]
        read_annotations(folder / name)
        found[file_format] = [(folder / name).read_bytes()]
    for file_format in ("labelme", "yolo-pose"):
        write_annotations(folder / file_format, Annotations(samples, names), file_format)  # type: ignore[arg-type]
        files = sorted(p for p in (folder / file_format).rglob("*") if p.suffix in (".json", ".txt", ".yaml"))
        found[file_format] = [path.read_bytes() for path in files]
    found["pts"] = [b"version: 1\nn_points: 5\n{\n" + _lines(points) + b"}\n"]
    return found


def _lines(points: np.ndarray) -> bytes:
    return "".join(f"{x:.2f} {y:.2f}\n" for x, y in points).encode()


def metadata() -> list[bytes]:
    """Return the metadata of the packaged models."""
    from pipnet.inference.backends.model_check import check_model_file

    return [check_model_file(path)["pipnet"].encode() for path in packaged_models().values()]
