"""Where presets are looked up, and where paths in them start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gra_hpc.errors import ConfigError, nearest


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


def no_preset(name: str) -> ConfigError:
    """The error of a preset that is not there: with a near one, and those in the same directory."""
    known = sorted({str(p.relative_to(d).with_suffix("")) for d in config_dirs() for p in d.rglob("*.yaml")})
    folder = name.rpartition("/")[0]
    there = [k for k in known if k.rpartition("/")[0] == folder] or [k for k in known if "/" not in k]
    left = len(known) - len(there)
    return ConfigError(
        f"preset {name}: no such file or preset{nearest(name, known) or _near(name, known)}",
        f"presets: {', '.join(there)}" + (f" (and {left} in directories beside them)" if left else ""),
    )


def _near(name: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, by the last part of a name, or a word in it."""
    import difflib

    word = name.rpartition("/")[2].removesuffix(".yaml").casefold()
    last = {k.rpartition("/")[2]: k for k in sorted(known, key=lambda k: k.count("/"), reverse=True)}
    close = difflib.get_close_matches(word, list(last), n=1, cutoff=0.7)
    close = close or [part for part in last if word and (word in part or part in word)]
    return f"; did you mean {last[close[0]]}?" if close else ""
