"""A proof as it goes on: its directory, its time, and what became of its pieces so far.

DIR/proof.json       written anew after each piece: what ended is told, whatever ends the job
    PIECE.log        what a piece did, and the ends of its engines' logs where it failed
    engines/         the engines' own logs, one for each start
    tuning/          the fine-tuning's directory
    logs/            the job's, under Slurm
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.doctor.prove.outcome import BOUNDS, FAILED, NOT_HERE, OK, TITLES, NotHereError, Outcome
from gra_hpc.errors import GraError
from gra_hpc.log_lines import Formatter
from gra_hpc.log_tail import tail
from gra_hpc.storage import read_object, to_json, write_atomic

log = logging.getLogger("gra_hpc.doctor.prove")

TOTAL_S = 840.0
"""Time of a proof, in seconds; a piece that has no time left is not begun."""
TAIL = 60
"""Lines of an engine's log that a failed piece's log ends with."""
REPORT = "proof.json"


@dataclass
class Proof:
    """What became of the pieces.

    Args:
        directory: for the report and all logs.
        only: the pieces that are wanted; empty: all.
        note: told what begins and how it ended.
    """

    directory: Path
    only: Collection[str] = ()
    note: Callable[[str], None] = lambda _: None
    total_s: float = TOTAL_S
    patience: float = 1.0
    """Times the pieces' bounds."""
    outcomes: list[Outcome] = field(default_factory=list)
    node: dict[str, Any] = field(default_factory=dict)
    """What the node is, for the table's head."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Figures for the site's calibration (`measured.py`)."""
    began: float = field(default_factory=time.time)
    _clock: float = field(default_factory=time.monotonic)

    @property
    def engines(self) -> Path:
        """Where the engines' logs go."""
        return self.directory / "engines"

    def wants(self, *pieces: str) -> bool:
        """Whether any of these pieces is to be tried."""
        return not self.only or any(p in self.only for p in pieces)

    async def piece(self, name: str, work: Callable[[], Awaitable[str]], needs: str = "") -> bool:
        """Try one piece; whatever becomes of it, the next one follows.

        Args:
            work: does it, and says in one line what was seen.
            needs: why it cannot be tried; empty: nothing is in its way.

        Returns:
            Whether it is ok.
        """
        if not self.wants(name):
            return False
        file = self.directory / f"{name}.log"
        began = time.monotonic()
        left = self.total_s - (began - self._clock)
        bound = min(self.patience * BOUNDS[name], left)
        self.note(f"{name}: {TITLES[name]} (at most {max(0.0, bound):.0f} s)")
        handler = logging.FileHandler(file, encoding="utf-8")
        handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        ours = logging.getLogger("gra_hpc")
        level = ours.level
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        try:
            state, what, then = await self._tried(name, work, needs, bound)
            if state == FAILED:
                self._engine_logs(time.time() - (time.monotonic() - began))
        finally:
            ours.removeHandler(handler)
            ours.setLevel(level)
            handler.close()
        seconds = round(time.monotonic() - began, 1)
        self.outcomes.append(Outcome(name, state, what, then, seconds, str(file)))
        self.save()
        self.note(f"{name}: {state} after {seconds:.0f} s")
        return state == OK

    async def _tried(
        self, name: str, work: Callable[[], Awaitable[str]], needs: str, bound: float
    ) -> tuple[str, str, str]:
        """State, what was seen and the next command of one piece."""
        read = f"read {self.directory / name}.log"
        try:
            if needs:
                raise NotHereError(needs)
            if bound < 1:
                raise GraError(
                    f"no time left: a proof has {self.total_s / 60:.0f} minutes", f"once more, with --only {name}"
                )
            async with asyncio.timeout(bound):
                what = await work()
            log.info("ok: %s", what)
            return OK, what, ""
        except NotHereError as e:
            log.info("not possible here: %s", e)
            return NOT_HERE, e.what, e.then
        except GraError as e:
            log.error("failed: %s", e, exc_info=True)
            return FAILED, e.what, e.then or read
        except TimeoutError:
            log.error("not done within %.0f s", bound, exc_info=True)
            return FAILED, f"not done within {bound:.0f} s", read
        except Exception as e:  # the other pieces must go on, whatever a strange machine does
            log.exception("failed")
            return FAILED, f"{type(e).__name__}: {' '.join(str(e).split())[:300]}", f"report it with {name}.log; {read}"

    def _engine_logs(self, since: float) -> None:
        """The ends of the engines' logs that were written since a piece began, into the piece's own."""
        for file in sorted(self.engines.glob("*.log")):
            try:
                if file.stat().st_mtime < since:
                    continue
                lines = tail(file, TAIL)
            except OSError:
                continue
            write_lines(f"the end of {file}", lines)

    def save(self, done: bool = False) -> None:
        """Write the report."""
        report = {
            "host": socket.gethostname(),
            "began": self.began,
            "seconds": round(time.monotonic() - self._clock, 1),
            "node": self.node,
            "pieces": [asdict(o) for o in self.outcomes],
            "measured": self.measured,
            "done": done,
        }
        write_atomic(self.directory / REPORT, to_json(report))


def write_lines(what: str, lines: Iterable[str]) -> None:
    """Several lines of others into the log of the piece that goes on."""
    log.info("%s:", what)
    for line in lines:
        log.info("  | %s", line)


def read_report(directory: Path) -> dict[str, Any]:
    """What a proof has reported so far; empty before its first piece."""
    try:
        return read_object(directory / REPORT, "pieces", "done")
    except FileNotFoundError:
        return {}


def new_directory(base: Path, site: str) -> Path:
    """A directory for a proof, which stays: its logs are in it."""
    name = f"gra-prove-{re.sub(r'[^a-zA-Z0-9_-]', '-', site)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for more in ("", *(f"-{n}" for n in range(2, 100))):
        path = base / f"{name}{more}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise GraError(f"{base / name}: there already", "wait a second")
