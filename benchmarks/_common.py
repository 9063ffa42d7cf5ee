"""What the benchmark scripts share: where their numbers come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipnet.benchmark.run import processor_name

ROOT = Path(__file__).parents[1]


def provenance() -> dict[str, str]:
    """Return the commit, with ``-dirty`` if sources or recipes differ from it, and the machine."""
    commit = _git("rev-parse", "--short", "HEAD").stdout.strip()
    is_clean = _git("diff", "--quiet", "HEAD", "--", "src", "recipes").returncode == 0
    return {"commit": commit if is_clean else f"{commit}-dirty", "machine": processor_name()}


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
