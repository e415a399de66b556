"""Where the seconds of an engine's start went, as its own log tells: `imports`, `weights`, and so on (`PHASES`)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

PHASES = ("imports", "weights", "compilation", "graphs", "cache", "rest")
"""imports: until the model begins to load, which is Python's start and imports, in each of vLLM's processes, one after
another. weights: the model is made and read. compilation: torch.compile, or the reading of what it has kept. graphs:
CUDA graphs are captured. cache: memory is profiled, the KV cache made, the model warmed up; on a CPU also what is
compiled, which vLLM does not tell apart there. rest: until it answers."""

MOST_BYTES = 4 << 20
"""So much of a log is read: all of a start that ends well."""
_LOADS = re.compile(r"\bINFO (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d) \S+ Starting to load model ")
_TOOK = {
    # versions say `takes`, `took`, `s`, `secs` and `seconds`, and the CPU's only the second of the weights' two lines
    "model": re.compile(r"Model loading took [\d.]+ GiB (?:memory )?and ([\d.]+) seconds"),
    "weights": re.compile(r"Loading weights took ([\d.]+) seconds"),
    "compilation": re.compile(r"torch\.compile (?:takes|took) ([\d.]+) s in total"),
    "graphs": re.compile(r"Graph capturing finished in ([\d.]+) sec"),
    "init": re.compile(r"init engine \(.*?\) took ([\d.]+) s"),
    "in init": re.compile(r"init engine \(.*?\) took [\d.]+ s\w* \(compilation: ([\d.]+) s"),
}


def phases(log: Path, seconds: float, ready: float) -> dict[str, float]:
    """The phases of a start, in seconds; together they are all of it.

    Args:
        log: the engine's, of this start alone.
        seconds: that it took.
        ready: when it first answered, by the machine's clock (Unix time).

    Returns:
        By `PHASES`; what a log does not tell is in `rest`. Empty: it tells nothing, or cannot be read.
    """
    try:
        with log.open("rb") as f:
            text = f.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    # Of several processes each tells its own: they work side by side, and the longest is the one that counts.
    took = {name: max(map(float, sign.findall(text)), default=0.0) for name, sign in _TOOK.items()}
    found = {
        "imports": _until_loading(text, ready - seconds, seconds),
        "weights": max(took["model"], took["weights"]),
        "compilation": took["in init"] or took["compilation"],
        "graphs": took["graphs"],
    }
    found["cache"] = took["init"] - found["compilation"] - found["graphs"]
    if not any(found.values()):
        return {}
    left, out = seconds, {}
    for name in PHASES[:-1]:
        out[name] = round(min(left, max(0.0, found[name])), 2)
        left = max(0.0, left - out[name])
    return out | {"rest": round(left, 2)}


def _until_loading(text: str, began: float, seconds: float) -> float:
    """Seconds from a start to the log's line that says that the model begins to load; 0: there is none in its time.

    vLLM's lines bear the local time without a year; an engine of another time zone says one that is not of its start.
    """
    stamp = _LOADS.search(text)
    if stamp is None:
        return 0.0
    month, day, hour, minute, second = map(int, stamp.groups())
    year = time.localtime(began).tm_year
    years = (year, year + 1) if month == 1 else (year,)  # a start over midnight of 31 December
    after = (time.mktime((y, month, day, hour, minute, second, 0, 0, -1)) - began for y in years)
    found = min(after, key=abs)
    return max(0.0, found) if found <= seconds + 1 else 0.0


def told(seconds: Mapping[str, float]) -> str:
    """Phases for people, the longest first; those under a second are left out."""
    known = sorted(((s, name) for name, s in seconds.items() if name in PHASES and s >= 1), reverse=True)
    return ", ".join(f"{name} {s:.0f} s" for s, name in known)
