"""Whether models take turns, and which ones together.

A turn's models are awake on the whole node, the others sleep (or are stopped, on a CPU). A sample needs every turn
`passes` times, since each of its stages waits for the models it asks; a cycle of all turns works on one window of
samples. With x_g the rate of turn g while it is awake and s the seconds a cycle spends on swapping:

    samples per second = 1 / (sum_g 1 / x_g + passes * s / window)

Turns do not otherwise depend on each other, so that each set of models is laid out once, with a quick search; the
partitions of the pool are compared, few turns and balanced ones first (up to `MOST_MODELS` models; of larger pools,
balanced partitions). The turns of the best one are searched as thoroughly as a layout with everybody awake.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from gra_hpc.config.settings import Residency
from gra_hpc.placement.cpu import Seat, host_bytes, seat
from gra_hpc.placement.hosts import Host, Space, ideal
from gra_hpc.placement.performance import GB, Constants, Need
from gra_hpc.placement.search import Layout, best_layout

MOST_MODELS = 7
"""Up to this many models all partitions into turns are compared (877 for seven)."""
MOST_SETS = 32
"""Up to so many sets of models are laid out to compare partitions."""
QUICK = 0.04
"""Part of a whole search's effort that each of them is given."""


@dataclass(frozen=True)
class Turn:
    """Models that are awake together."""

    engines: tuple[Host, ...] | tuple[Seat, ...]
    samples_per_s: float
    """While awake."""
    swap_s: float = 0.0
    """Seconds a cycle spends on waking it and putting it to sleep."""
    ideal: float = 0.0
    """No layout does more."""


@dataclass(frozen=True)
class Rota:
    """All turns of a node; one turn if everybody is awake."""

    turns: tuple[Turn, ...]
    samples_per_s: float
    ideal: float
    """No layouts with these turns do more."""
    constants: Constants = field(repr=False)

    @property
    def swap_share(self) -> float:
        """Part of the time that is spent on swapping."""
        if len(self.turns) < 2:
            return 0.0
        return self.samples_per_s * _swap_per_sample(self.turns, self.constants)

    def window_for(self, share: float) -> int:
        """Samples in flight with which swapping takes no more than this part of the time."""
        swaps = self.constants.passes * sum(t.swap_s for t in self.turns)
        work = sum(1 / t.samples_per_s for t in self.turns)
        return int(swaps * (1 - share) / (share * work)) + 1


@dataclass
class NodeModel:
    """Lays out sets of models on one node, each set once.

    Args:
        needs: all models of the pool.
        devices: GPUs, or cores.
        memory: bytes of a GPU that engines may take; host memory that they may take on a CPU (0: not checked).
        constants: the performance model's.
        cpu: whether this is a CPU node.
        host_memory: on a GPU node, host memory for sleeping weights in bytes (0: not checked).
        effort: part of the usual number of search steps.
    """

    needs: Sequence[Need]
    devices: int
    memory: float
    constants: Constants
    cpu: bool
    host_memory: float
    effort: float = 1.0
    _known: dict[tuple[object, ...], Layout | None] = field(default_factory=dict, repr=False)
    _ideals: dict[tuple[object, ...], float] = field(default_factory=dict, repr=False)

    def together(self) -> Rota | None:
        """Everybody awake."""
        return self.rota([self.needs])

    def rota(self, groups: Sequence[Sequence[Need]], effort: float = 1.0) -> Rota | None:
        """These turns, each searched with a part of the usual effort; none if one of them does not fit."""
        turns = []
        for group in groups:
            turn = self.turn(group, groups, effort)
            if turn is None or turn.samples_per_s <= 0:
                return None
            turns.append(turn)
        return combine(turns, self.constants)

    def turn(self, group: Sequence[Need], groups: Sequence[Sequence[Need]], effort: float = 1.0) -> Turn | None:
        """One turn: its models have the node for themselves, but for what the sleeping ones keep."""
        if self.cpu:
            return self._on_cores(group, alone=len(groups) == 1)
        return self._on_devices(group, len(groups) == 1, self._host_share(group, groups), effort)

    def _host_share(self, group: Sequence[Need], groups: Sequence[Sequence[Need]]) -> float:
        """Host memory for a turn's weights when it sleeps: with these shares, all turns but one always fit."""
        if not self.host_memory or len(groups) == 1:
            return float("inf")
        weights = [sum(n.facts.weight_bytes for n in g) for g in groups]
        mine = sum(n.facts.weight_bytes for n in group)
        return self.host_memory * (1.0 if len(groups) == 2 else mine / (sum(weights) - min(weights)))

    def _on_cores(self, group: Sequence[Need], alone: bool) -> Turn | None:
        if self.memory and host_bytes(group, self.constants) > self.memory:
            return None
        rate, seats = seat(group, self.devices, self.constants)
        return Turn(seats, rate, 0.0 if alone else self.constants.start_s, rate)

    def _on_devices(self, group: Sequence[Need], alone: bool, host: float, effort: float) -> Turn | None:
        key = (effort, *self._key(group, host))
        if key not in self._known:
            self._known[key] = best_layout(self._space(group, host), effort * self.effort)
        layout = self._known[key]
        if layout is None:
            return None
        hosts = _renamed(layout.hosts, group, self.constants)
        swap = 0.0
        if not alone:
            moved = [
                sum(h.need.facts.weight_bytes / h.tensor_parallel for h in hosts if d in h.devices)
                for d in range(self.devices)
            ]
            swap = 2 * max(moved) / (self.constants.device.host_gbs * GB) + self.constants.swap_s
        return Turn(hosts, layout.samples_per_s, swap, layout.ideal)

    def _space(self, group: Sequence[Need], host: float) -> Space:
        """A turn's models, and what the sleeping ones leave of the node."""
        kept = (len(self.needs) - len(group)) * self.constants.sleep_gb * GB
        return Space(tuple(group), self.devices, self.memory - kept, self.constants, host)

    def _key(self, group: Sequence[Need], host: float) -> tuple[object, ...]:
        """Models alike in everything but their names have the same layouts."""
        alike = sorted(self._likeness[n.name] for n in group)
        return host, len(self.needs) - len(group), *alike

    def best(self, residency: Residency) -> Rota | None:
        """The best rota that the residency allows; none if there is none."""
        if residency is Residency.together or len(self.needs) < 2:
            return self.together()
        if residency is Residency.turns:
            return self.one_by_one()
        awake = self.together()
        if awake and self.cpu:  # a swap restarts engines there: only where memory leaves no choice
            return awake
        least = awake.samples_per_s * (1 + self.constants.turn_gain) if awake else 0.0
        best = awake
        for groups in self.partitions():
            if best and len(self._known) >= MOST_SETS:
                break
            rota = self.rota(groups, QUICK) if self.reachable(groups) > least else None
            if rota and rota.samples_per_s > least:
                rota = self._with_light(groups, QUICK)
                if rota and rota.samples_per_s > least:
                    best, least = rota, rota.samples_per_s
        if best is None or best is awake or self.cpu:
            return best
        names = [{e.need.name for e in turn.engines} for turn in best.turns]
        thorough = self.rota([[n for n in self.needs if n.name in own] for own in names], 1 / len(names))
        return thorough if thorough and thorough.samples_per_s > best.samples_per_s else best

    def one_by_one(self) -> Rota | None:
        """One generating model awake at a time, embedding models beside one of them."""
        return self._with_light([[n] for n in self.needs if n.generates], QUICK)

    def _with_light(self, groups: Sequence[Sequence[Need]], effort: float) -> Rota | None:
        """Embedding models join the turn where they disturb least; if they fit nowhere they have one of their own."""
        light = [n for n in self.needs if not n.generates]
        if not light:
            return self.rota(groups, effort)
        joined = [[[*g, *light] if k == own else list(g) for k, g in enumerate(groups)] for own in range(len(groups))]
        rotas = [r for r in (self.rota(j, effort) for j in joined) if r]
        return max(rotas, key=lambda r: r.samples_per_s, default=None) or self.rota([*groups, light], effort)

    def reachable(self, groups: Sequence[Sequence[Need]]) -> float:
        """No rota with these turns does more: what they are known to do, else their ideal, and swaps at their least."""
        if self.cpu:
            swaps = len(groups) * self.constants.start_s
            work = 0.0
        else:
            moved = 2 * sum(n.facts.weight_bytes for n in self.needs) / self.devices
            swaps = moved / (self.constants.device.host_gbs * GB) + len(groups) * self.constants.swap_s
            work = sum(self._least_work(g, self._host_share(g, groups)) for g in groups)
        return 1 / max(1e-12, work + self.constants.passes * swaps / self.constants.window)

    def _least_work(self, group: Sequence[Need], host: float) -> float:
        """Seconds per sample of a turn; infinite where it does not fit."""
        key = self._key(group, host)
        known = (QUICK, *key)
        if known in self._known:
            layout = self._known[known]
            return 1 / layout.samples_per_s if layout else float("inf")
        if key not in self._ideals:
            space = self._space(group, host)
            smallest = [min((t * space.fit(n, t).size for t in space.splits(n)), default=float("inf")) for n in group]
            fits = sum(smallest) <= space.memory * space.devices
            self._ideals[key] = ideal(space)[1] if fits else 0.0
        return 1 / self._ideals[key] if self._ideals[key] else float("inf")

    @functools.cached_property
    def _likeness(self) -> dict[str, str]:
        """All of each model but its name: like models can change places in a layout."""
        return {n.name: likeness(n, self.constants) for n in self.needs}

    def partitions(self) -> list[list[list[Need]]]:
        """Partitions of the generating models into two turns and more: few turns first, balanced weights first."""
        big = [n for n in self.needs if n.generates]
        weight = {n.name: n.facts.weight_bytes * max(1, n.replicas) for n in big}

        def order(groups: list[list[Need]]) -> tuple[int, float]:
            return len(groups), max(sum(weight[n.name] for n in g) for g in groups)

        by_size = sorted(big, key=lambda n: -weight[n.name])
        out: list[list[list[Need]]] = []
        if len(big) <= MOST_MODELS:
            seen: set[object] = set()
            for groups in sorted((g for g in _partitions(by_size) if len(g) > 1), key=order):
                key = tuple(sorted(tuple(sorted(self._likeness[n.name] for n in g)) for g in groups))
                if key not in seen:
                    seen.add(key)
                    out.append(groups)
            return out
        for count in range(2, len(by_size) + 1):
            groups = [[] for _ in range(count)]
            for n in by_size:
                min(groups, key=lambda g: sum(weight[m.name] for m in g)).append(n)
            out.append(groups)
        return out


def combine(turns: Sequence[Turn], constants: Constants) -> Rota:
    """The rate of turns that follow each other."""
    swaps = _swap_per_sample(turns, constants) if len(turns) > 1 else 0.0
    rate = 1 / (sum(1 / t.samples_per_s for t in turns) + swaps)
    most = 1 / (sum(1 / max(t.ideal, t.samples_per_s) for t in turns) + swaps)
    return Rota(tuple(turns), rate, most, constants)


def _swap_per_sample(turns: Sequence[Turn], constants: Constants) -> float:
    return constants.passes * sum(t.swap_s for t in turns) / constants.window


def _partitions(items: list[Need]) -> Iterator[list[list[Need]]]:
    """All set partitions."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for groups in _partitions(rest):
        for k in range(len(groups)):
            yield [*groups[:k], [first, *groups[k]], *groups[k + 1 :]]
        yield [[first], *groups]


def _renamed(hosts: Sequence[Host], group: Sequence[Need], constants: Constants) -> tuple[Host, ...]:
    """A layout of like models, with the names of this group."""
    names: dict[str, Need] = {}
    left = list(group)
    for h in hosts:
        if h.need.name not in names:
            match = next(n for n in left if likeness(n, constants) == likeness(h.need, constants))
            left.remove(match)
            names[h.need.name] = match
    return tuple(replace(h, need=names[h.need.name]) for h in hosts)


def likeness(need: Need, constants: Constants) -> str:
    """All of a need but its name: like models can change places in a layout."""
    return repr((replace(need, name=""), constants.speed.get(need.name, 1.0)))
