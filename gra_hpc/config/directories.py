"""Where presets are looked up."""

from __future__ import annotations

from pathlib import Path


def config_dirs() -> list[Path]:
    """Where presets are looked up."""
    return [d for d in (Path("configs"), *package_dirs()) if d.is_dir()]


def package_dirs() -> tuple[Path, Path]:
    """What came with the code is trusted as the code is."""
    package = Path(__file__).resolve().parent.parent
    return package.parent / "configs", package / "_configs"
