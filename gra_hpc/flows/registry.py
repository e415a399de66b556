"""What a flow is, in one description, and which there are.

A flow is one folder. Its module `flow` holds `FLOWS`, the descriptions of what is in it; nothing outside the folder
names them. All that differs between flows, wherever it is needed, is asked of the description.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_type_hints

from gra_hpc.config import flow_sections
from gra_hpc.config.fields import Need
from gra_hpc.config.settings import MethodConfig, RunConfig
from gra_hpc.errors import ConfigError
from gra_hpc.flows import payload
from gra_hpc.flows.ask import Ask, Question
from gra_hpc.flows.expected import FREE, GUIDED, Asked, Rates, StepSize
from gra_hpc.flows.keys import Keys
from gra_hpc.flows.units import Context, Draw, Drawn, Unit, settings_of
from gra_hpc.records import PAPER, Candidate, Record, Rubric

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_POOLED = ("instruction", "response", "domain", "keywords", "summary")
"""What a record has that no candidate has of itself."""

Run: TypeAlias = Callable[[Context, Unit], Awaitable[None]]
"""One candidate through a flow: it fills in `unit.sample`, and sets its status at the end."""


@dataclass(frozen=True)
class Gold:
    """How Reviewers are asked about records whose verdict is known."""

    put: Callable[[Ask, Candidate], Awaitable[list[tuple[str, int | None]]]]
    """Asks the Reviewers of such a question, which has its texts and roles as a candidate would; the answers by member,
    in points, none where there was none."""
    keeps: Callable[[int, MethodConfig], bool]
    """Whether an answer of so many points would keep the record."""


GRA_SETTINGS = (
    "policy", "fixed", "explore", "reviewers", "examples_min", "examples_max", "keywords", "summary_words",
    "review_instruction", "review_response", "review_order", "self_review", "accept_mean", "accept_sd", "settle",
    "adjudicate_mean",
)  # fmt: skip
"""Keys of `method` that are GRA's own; the others are every flow's."""


Chat: TypeAlias = Callable[[Mapping[str, Any]], Sequence[tuple[str, str]]]
"""A row of the data as a chat: who says what, in turn; system, user and assistant, who has the last word."""
MESSAGES = "messages"
"""The column of such chats."""


@dataclass(frozen=True)
class Stage:
    """A place where candidates end."""

    name: str
    """As the ledger has it."""
    passed: str
    """What passes it, in a few words."""
    on: Callable[[Mapping[str, Any]], bool] = lambda _: True
    """Whether a run's candidates go through it, by its settings `method`; if not, it is shown only where some ended."""


@dataclass(frozen=True)
class SeedCounts:
    """What is known of a run's seeds when it is planned."""

    seeds: int
    unanswered: int
    """Without a response."""
    undescribed: int
    """Those that round 0 has to describe."""
    candidates: int
    """Of round 1."""


@dataclass(frozen=True)
class After:
    """A round that is being merged."""

    config: RunConfig
    round: int
    before: Mapping[str, Any]
    """What its own draws were given (`Draw.standing`)."""
    samples: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    """Some columns of all its candidates, whatever became of them, a few thousand rows at a time."""
    kept: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    """The same of the rows that the merge keeps."""
    gold: Callable[[], Mapping[str, Mapping[str, tuple[float, float]]]]
    """Right answers to gold questions, and answers, by domain and member."""


@dataclass(frozen=True)
class Forwarded:
    """What a round cannot end by itself."""

    ids: Iterator[str]
    """Of accepted candidates: the merge drops them, and the next round works on their seeds."""
    by: dict[str, Any] = field(default_factory=dict)
    """What decided it, as plain JSON, for the merge's manifest."""


Samples: TypeAlias = "Callable[[Sequence[str]], Iterator[pa.RecordBatch]]"
"""Some columns of all candidates of a round, whatever became of them, a few thousand rows at a time; may be asked for
again."""

Forward: TypeAlias = Callable[[int, Samples], Forwarded]
"""What a round, of that number, forwards to the next one: pure, bounded."""


def _nothing(*_: Any) -> Iterator[Any]:
    return iter(())


@dataclass(frozen=True)
class Section:
    """A part of a report: words, and a table."""

    title: str
    text: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()


@dataclass(frozen=True)
class Released:
    """A release under way, for what a flow adds to it."""

    config: RunConfig
    samples: Callable[[], Iterator[pa.Table]]
    """All samples, whatever became of them, a few thousand at a time, always in the same order; all columns but the
    embedding."""
    tokens: Mapping[str, Sequence[int]]
    """Calls, prompt tokens and written tokens, by `role model`."""
    rounds: Sequence[Mapping[str, Any]]
    """Of each round from 1 what the steps of its merge found (`steps` of the merge's manifest)."""
    out: Path
    """The release's directory: files of the flow's own may be written there."""


@dataclass(frozen=True)
class Added:
    """What a flow adds to a release, beside files."""

    facts: dict[str, Any]
    """For the manifest: plain JSON."""
    sections: tuple[Section, ...] = ()
    """For report and card."""


@dataclass(frozen=True)
class Views:
    """What people are shown of a flow."""

    plan: Callable[[RunConfig], Iterator[str]] = _nothing
    """Lines of `gra plan`: how the committee decides."""
    notes: Callable[[RunConfig, SeedCounts], Iterator[str]] = _nothing
    """What a plan has that its owner may not mean; a line each."""
    card: Callable[[Mapping[str, Any]], str] = lambda _: ""
    """Of conversations, how a row begins, in a paragraph of the card; by the settings `method`."""
    report: Callable[[RunConfig, Iterator[pa.Table]], Iterator[Section]] = _nothing
    """What a release's report says of its rows, which come a few thousand at a time, best first within a round."""
    release: Callable[[Released], Added] | None = None
    """What it adds to a release, from all samples; none: nothing."""
    people: Callable[[RunConfig, Path, Sequence[Path]], Iterator[str]] | None = None
    """Lines on how far a release (its directory) agrees with what people say (their files); none: it cannot be said."""
    standing: Callable[[RunConfig, Mapping[str, Any], Samples], Iterator[str]] | None = None
    """Lines of `gra status --roles` on what a round's draws were given, beside its candidates so far; none: nothing."""
    detail: Callable[[pa.Table], pa.Array] | None = None
    """Of conversations, what more there is to say of candidates that were not accepted, by rows of their table: text,
    or null; none: nothing."""
    conversation: Callable[[Mapping[str, Any]], Iterator[str]] | None = None
    """Of conversations, lines of `gra inspect` on a row; none: nothing but how it ended."""
    sample: Callable[[RunConfig, Path, Mapping[str, Any]], Iterator[str]] | None = None
    """Lines of `gra inspect` on a row of its samples, beside the release (its directory, where it is made); none: the
    columns of its own, one by one."""


@dataclass(frozen=True)
class Flow:
    """One method."""

    name: str
    """As `method.flow` has it."""
    about: str
    """What it makes, in one line."""
    questions: tuple[Question[Any], ...]
    """All it asks, in its order; those of `prepare` first. None: it asks nobody, and no engine starts."""
    stages: tuple[Stage, ...]
    """In their order."""
    run: Run
    prompts: Path = Path()
    """Directory of its templates, in its folder; left out: `prompts` beside the module of `run`."""
    roles: Callable[[Any], Mapping[str, int]] = lambda _: {}
    """Seats for a candidate by role, from its settings: what `draw`, `expect` and `seats` rest on, where they are left
    out."""
    draw: Callable[[Draw], Drawn] = lambda of: _draw(of)
    """Who has which role for a candidate, and what it is shown; left out: members at random, none twice for a role."""
    reads: tuple[str, ...] = ()
    """Keys of `method` among `GRA_SETTINGS` that it goes by; of others the plan says so, where they are set."""
    uses: tuple[str, ...] = ()
    """Code that it rests on outside its folder, beside what every flow does: patterns of files below `gra_hpc/`."""
    trial: Callable[[str], dict[str, Any]] = lambda _: {}
    """Made-up variables that a step's template can be rendered with."""
    settings: type | None = None
    """Its own section of the configuration, under its name; none: it has none."""
    result: type | None = None
    """Dataclass of what it fills in (`payload.Made.result`): the columns of its tables beside the common ones."""
    columns: Callable[[bool, bool, bool, Rubric], pa.Schema] | None = None
    """Schema of its samples in place of the one derived from `result`; with thoughts, context, propensity, criteria."""
    draws_by_likeness: Callable[[RunConfig], bool] = lambda _: False
    """Whether its draws ask for embeddings (`Draw.embed`)."""
    keys: Keys | None = None
    """None: rows are not compared; all accepted ones stay."""
    chat: Chat | None = None
    """Of rows with columns of their own: what a model is trained on. None: they have no such view. Rows of `columns`
    are chats of themselves."""
    pools: bool = False
    """Accepted rows are records, whose columns they have: they go into the pool, and may be examples of later
    rounds."""
    prepare: Run | None = None
    """Round 0: describes a seed that comes without a description. None: seeds need none."""
    between: Callable[[After], dict[str, Any]] | None = None
    """From a merged round to what the next one's draws are given, as JSON has it: pure, bounded, the merge's last step.
    Empty: nothing."""
    forwards: Callable[[RunConfig], Forward | None] = lambda _: None
    """How a round forwards some candidates to the next one, which then works on nothing but the seeds of which no row
    was kept. None: every round works on all seeds. Not with `merge.allow_partial`."""
    check_seeds: Callable[[RunConfig, Sequence[Record]], None] = lambda *_: None
    """Refuses seeds that it could not use, when a run is planned: a job would only find it after its queue."""
    check: Callable[[RunConfig, Need], None] = lambda *_: None
    """Refuses settings that it has no use for."""
    expect: Callable[[RunConfig, Rates], list[Asked]] = lambda config, _: _expect(config)
    """How often a candidate asks each question; left out: once of each seat of its role."""
    expect_prepare: tuple[Asked, ...] = ()
    """The same of `prepare`."""
    seats: Callable[[RunConfig], dict[str, dict[str, float]]] = lambda config: _seats(config)
    """Seats per candidate, by role and member; left out: the members' even parts."""
    sizes: Mapping[str, StepSize] = field(default_factory=dict)
    """By step, until a calibration has measured them; of those left out, stated defaults."""
    gold: Gold | None = None
    """None: it has no Reviewers of responses, whom `method.gold` could ask."""
    measured: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]] = lambda _: {}
    """Shares that `expect` goes by (`Rates`), from candidates: their status, stage and the columns `measured_by`."""
    measured_by: tuple[str, ...] = ()
    views: Views = field(default_factory=Views)
    thresholds: Callable[[MethodConfig], tuple[str, ...]] = lambda _: ()
    """Keys of `method` that `gra decide` may change afterwards, since all they decide by is stored; none: nothing."""
    of_seeds: tuple[str, ...] = ()
    """Columns that hold the seeds' own texts, or none."""

    def __post_init__(self) -> None:
        """Raises TypeError: keys that are no texts of its result; a pool or a chat that its results do not fit
        in."""
        if self.prompts == Path():
            object.__setattr__(self, "prompts", Path(inspect.getfile(inspect.unwrap(self.run))).parent / "prompts")
        others = [q for q in self.questions if q.step not in self.sizes]
        stated = {q.step: GUIDED if q.schema or q.choices else FREE for q in others}
        object.__setattr__(self, "sizes", {**self.sizes, **stated})
        own = set(get_type_hints(self.result) if self.result else ())
        if self.chat and MESSAGES in own:
            raise TypeError(f"chat: the flow's result has a column {MESSAGES} already")
        lacking = set(_POOLED) - own
        if self.pools and not self.columns and lacking:
            raise TypeError(f"pools: the flow's result has no {', '.join(sorted(lacking))}, which records have")
        if self.pools and self.keys and self.keys.columns != (wanted := self.keys.of_records.columns):
            raise TypeError(f"pools: accepted rows are compared as records there, so keys are {', '.join(wanted)}")
        if self.keys and not self.columns:
            self.keys.check(self.result)

    def schema(
        self, thoughts: bool = False, context: bool = False, propensity: bool = False, rubric: Rubric = PAPER
    ) -> pa.Schema:
        """Arrow schema of its samples.

        Args:
            thoughts: with their column.
            context: with its column.
            propensity: with its column.
            rubric: the criteria of its reviews, where it has any.
        """
        if self.columns:
            return self.columns(thoughts, context, propensity, rubric)
        return payload.schema(self.result, thoughts)

    @property
    def conversations(self) -> bool:
        """Whether its rows are instructions with responses, of the schema of GRA's samples."""
        return self.columns is not None

    @property
    def asks(self) -> bool:
        """Whether it asks anybody."""
        return bool(self.questions)


def _roles(config: RunConfig) -> dict[str, int]:
    """Seats for a candidate by role; no more than there are members."""
    flow = flow_of(config)
    wanted = flow.roles(settings_of(config) if flow.settings else None)
    return {role: min(count, len(config.committee)) for role, count in wanted.items()}


def _draw(of: Draw) -> Drawn:
    name, members, roles = flow_of(of.config).name, list(of.config.committee), _roles(of.config)

    def drawn(id_: str, anchor: Record, index: int, rng: random.Random) -> Unit:
        seats = {role: tuple(rng.sample(members, count)) for role, count in roles.items()}
        return Unit(payload.Made(id_, of.round, anchor.id, index, name, seats), anchor)

    return drawn


def _seats(config: RunConfig) -> dict[str, dict[str, float]]:
    members = config.committee
    return {role: dict.fromkeys(members, count / len(members)) for role, count in _roles(config).items() if members}


def _expect(config: RunConfig) -> list[Asked]:
    roles = _roles(config)
    return [Asked(q.step, q.role or next(iter(roles)), 1.0) for q in flow_of(config).questions if roles]


def find(name: str) -> Flow:
    """The flow of that name.

    Raises:
        ConfigError: there is none; with the nearest name.
    """
    return cast(Flow, flow_sections.section(name))


def flow_of(config: RunConfig) -> Flow:
    """The flow that a run runs."""
    return find(config.method.flow)


def every() -> list[Flow]:
    """All flows: ours in the order of their folders, then those of other packages that can be imported."""
    found = []
    for name in flow_sections.names():
        try:
            found.append(find(name))
        except ConfigError as e:
            log.warning("%s", e)
    return found
