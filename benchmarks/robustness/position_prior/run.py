"""What a network predicts where there is no face: v1's position prior, by ``pipnet probe``.

    python benchmarks/robustness/position_prior/run.py --work WORK

WORK is a folder outside the checkout; the network trained on blank images stays there, and a rerun with it is
faster. ``score_maps.png`` shows images of ``examples/`` only, none of 300-W.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from pipnet.cli import main as run_command

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    ROOT,
    earlier_checkpoint,
    measured_on,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

HERE = Path(__file__).parent


def main() -> None:
    """Run the command, and write the page."""
    parser = new_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("probe"), help="folder outside the checkout")
    arguments = parser.parse_args()
    results = read_results(HERE)
    if not arguments.report:
        results = measure(arguments.shared / "data" / "300w", arguments.work)
        write_results(HERE, results)
    write_report(HERE, report(results))


def measure(data: Path, work: Path) -> dict[str, Any]:
    """Return what the command measures, and keep its figure."""
    checkpoint = earlier_checkpoint("pipnet-300w-mbv2")
    command = ["probe", str(checkpoint), "--data", str(data), "--images", str(ROOT / "examples")]
    if run_command([*command, "-o", str(work)]):
        raise SystemExit(1)
    shutil.copyfile(work / "position_prior.png", HERE / "score_maps.png")
    measured: dict[str, Any] = json.loads((work / "position_prior.json").read_text())
    return measured | provenance()


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    keys = ("distance", "unmerged", "any_landmark")
    rows: list[list[object]] = [
        [
            name.replace("--images", "`examples/`"),
            row["images"],
            *(f"{row[key]:.2f}" for key in keys),
            f"{row['peak']:.3f}",
        ]
        for name, row in results["rows"].items()
    ]
    rows += [
        [name, None, f"{value:.2f}", *[None] * 3] for name, value in results["reference_distances"].items()
    ]
    return [
        "# The position prior",
        "",
        "v1 (arXiv v1, 2020) shows what a network predicts where there is no face: (a) a network trained",
        "on blank (black) images with the true labels, on a blank image; (b) to (d) a network trained on",
        "faces, on images without one. In v1 both predict landmarks near the mean face.",
        "",
        *table(["network, images", "n", "prediction", "unmerged", "any landmark", "peak score"], rows),
        "",
        "Mean distance from the network's mean face in % of the crop. Unmerged: before the neighbors' votes",
        "are merged; v1 has no neighbors. Any landmark: each unmerged point compared with all landmarks of",
        "the mean face: what remains of unmerged if a network knows where landmarks are likely, but not",
        "which one.",
        "",
        "`python benchmarks/robustness/position_prior/run.py --work WORK`,",
        f"{measured_on(results)}: 3 minutes, 2 of them for the training on blank images.",
        "",
        *(HERE / "notes.md").read_text().splitlines(),
    ]


if __name__ == "__main__":
    main()
