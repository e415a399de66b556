"""Where presets are looked up, and where paths in them start."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from gra_hpc.errors import ConfigError, nearest

ENTRIES = 5000
"""Of a directory that are compared with a name."""
YAML = (".yaml", ".yml")
OTHERS = ("evaluate", "experiments", "finetune", "sites")
"""Folders of presets of other kinds than a run's."""


def looked(path: str) -> str:
    """What lies beside a path that is not there, and where it was looked for, as an end of a message."""
    near = near_file(path)
    if Path(path).expanduser().is_absolute():  # it says so itself
        return near
    return f"{near} (looked in {Path.cwd()}: a path starts at the working directory, wherever the preset lies)"


def near_file(path: str, suffixes: Sequence[str] = ()) -> str:
    """`; did you mean X?`, of what lies where a path that is not there would; or nothing.

    Args:
        suffixes: of files that are meant; none: of any.
    """
    import difflib

    try:
        wanted = Path(path).expanduser()
        entries = [p.name for p in islice(wanted.parent.iterdir(), ENTRIES)]
    except (OSError, ValueError, RuntimeError):  # no such directory, a NUL in it, no home directory
        return ""
    there = sorted(name for name in entries if not suffixes or name.endswith(tuple(suffixes)))
    same = [name for name in there if Path(name).stem == wanted.stem]  # of another suffix
    close = same or difflib.get_close_matches(wanted.name, there, n=1, cutoff=0.7)
    return f"; did you mean {wanted.with_name(close[0])}?" if close and wanted.stem else ""


def config_dirs() -> list[Path]:
    """Where presets are looked up."""
    return [d for d in (Path("configs"), *package_dirs()) if d.is_dir()]


def package_dirs() -> tuple[Path, Path]:
    """What came with the code is trusted as the code is."""
    package = Path(__file__).resolve().parent.parent
    return package.parent / "configs", package / "_configs"


def no_preset(name: str, folder: str | None = None) -> ConfigError:
    """The error of a preset that is not there: with a near file or preset, where it was looked for, and what there is.

    Args:
        folder: where in `configs/` presets of the kind that is wanted are; empty: of a run's; none: of any.
    """
    known = every = sorted({str(p.relative_to(d).with_suffix("")) for d in config_dirs() for p in d.rglob("*.yaml")})
    if folder:
        known = [k for k in known if k.startswith(f"{folder}/")]
    elif folder is not None:
        known = [k for k in known if k.partition("/")[0] not in OTHERS]
    own = name.rpartition("/")[0]
    there = [k for k in known if k.rpartition("/")[0] == own] or [k for k in known if "/" not in k] or known
    left = len(known) - len(there)
    word = name.removesuffix(".yaml")
    near = near_file(name, YAML) or _near(word, known) or nearest(word, known)
    if folder == "" and not near:  # said as what it is
        near = _near(word, [k for k in every if k.startswith("sites/")]).replace("sites/", "--site ")
    is_path = name.endswith(YAML) and not Path(name).is_absolute()
    where = f" (looked for {Path(name).absolute()}, and in configs/ there and of gra)" if is_path else ""
    return ConfigError(
        f"preset {name}: no such file or preset{near}{where}",
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
