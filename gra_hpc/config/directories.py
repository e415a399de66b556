"""Where presets are looked up, and where paths in them start."""

from __future__ import annotations

from pathlib import Path


def looked(path: str) -> str:
    """Where a path that is not there was looked for, as an end of a message; empty: it says so itself."""
    if Path(path).expanduser().is_absolute():
        return ""
    return f" (looked in {Path.cwd()}: a path starts at the working directory, wherever the preset lies)"


def config_dirs() -> list[Path]:
    """Where presets are looked up."""
    return [d for d in (Path("configs"), *package_dirs()) if d.is_dir()]


def package_dirs() -> tuple[Path, Path]:
    """What came with the code is trusted as the code is."""
    package = Path(__file__).resolve().parent.parent
    return package.parent / "configs", package / "_configs"
