"""A placement in plain text: a table of engines, a picture of the node, and why cheaper layouts lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gra_hpc.placement.hosts import Host, Space, place, share_time
from gra_hpc.placement.performance import GB, Need
from gra_hpc.placement.placement import Solution
from gra_hpc.placement.shortage import missing_together
from gra_hpc.placement.turns import Rota

BAR = 40
"""Characters for one device's memory in the picture."""


@dataclass(frozen=True)
class Alternative:
    """A layout that was not chosen."""

    name: str
    samples_per_s: float
    """0 if it does not fit."""
    why: str
    """What it wastes, or what is missing."""


@dataclass(frozen=True)
class PlacementReport:
    """A placement, ready to be printed."""

    solution: Solution
    alternatives: tuple[Alternative, ...]

    @property
    def samples_per_s(self) -> float:
        """Modelled committee throughput of the node, in candidates a second."""
        return self.solution.rota.samples_per_s

    def render(self) -> str:
        """Everything, as plain text."""
        parts = [self.headline(), self.table(), self.picture(), self.explain()]
        return "\n\n".join(p for p in parts if p) + "\n"

    def headline(self) -> str:
        """What was chosen, how good it is, and what to set."""
        s, rota = self.solution, self.solution.rota
        node = s.node
        where = (
            f"{node.cores} cores"
            if s.model.cpu
            else f"{node.devices} x {node.memory_gb:g} GB {s.model.constants.device.name}"
        )
        lines = [f"{where}: {rota.samples_per_s:.3g} samples/s (modelled)"]
        if not s.model.cpu:
            lines[0] += f", {rota.samples_per_s / rota.ideal:.0%} of a node without any loss"
        if len(rota.turns) > 1:
            lines.append(
                f"{len(rota.turns)} turns; {rota.swap_share:.0%} of the time goes on swapping;"
                f" launch.window={rota.window_for(0.1)} would make it 10%"
            )
        elif not s.model.cpu and self.window > s.model.constants.window:
            lines.append(
                f"launch.window={s.model.constants.window} keeps {s.model.constants.calls_in_flight:.0f} calls in"
                f" flight; {self.window} keeps these batches full"
            )
        return "\n".join(lines)

    @property
    def window(self) -> int:
        """Samples in flight that keep every engine's batch full."""
        constants = self.solution.model.constants
        calls = max(
            sum(e.batch(constants) for e in t.engines if isinstance(e, Host) and e.need.generates)
            for t in self.solution.rota.turns
        )
        return int(calls / constants.calls_per_sample) + 1

    def table(self) -> str:
        """One line per engine."""
        cpu = self.solution.model.cpu
        rows = [["engine", "TP", "cores" if cpu else "GPUs", "weights", "KV", "calls", "tokens/s", "time", "limit"]]
        turns = self.solution.rota.turns
        if len(turns) > 1:
            rows[0].insert(1, "turn")
        names = iter(self.solution.placement.engines)
        for number, turn in enumerate(turns):
            for e in turn.engines:
                at = next(names)
                row = [
                    at.name,
                    str(e.tensor_parallel),
                    _ranges(at.devices),
                    f"{e.need.facts.weight_bytes / e.tensor_parallel / GB:.1f} GB",
                    f"{e.kv_bytes / GB:.1f} GB" if e.need.generates else "-",
                    f"{e.rate.batch:.0f}" if e.need.generates else "-",
                    f"{e.rate.tokens_per_s:,.0f}",
                    f"{e.time:.0%}",
                    e.rate.bound,
                ]
                if len(turns) > 1:
                    row.insert(1, str(number))
                rows.append(row)
        note = (
            "per device: weights, KV cache; calls: its part of those in flight; tokens/s: prompt and answer tokens,"
            " with so many calls and the devices to itself"
        )
        return _columns(rows) + f"\n({note})"

    def picture(self) -> str:
        """The node: memory of every device, by model; capital letters are weights, small ones KV cache."""
        model = self.solution.model
        letters = {n.name: chr(ord("A") + k % 26) for k, n in enumerate(model.needs)}
        lines = []
        for number, turn in enumerate(self.solution.rota.turns):
            if len(self.solution.rota.turns) > 1:
                lines.append(
                    f"turn {number}: {turn.samples_per_s:.3g} samples/s while awake, {turn.swap_s:.0f} s to swap"
                )
            for d in range(model.devices):
                here = [e for e in turn.engines if d in e.devices]
                who = "  ".join(f"{letters[e.need.name]} {e.time:.0%}" for e in here)
                if model.cpu:
                    lines.append(f"  core {d:<3} {who or 'idle'}")
                    continue
                bar = ""
                unit = self.solution.node.memory_gb * GB / BAR
                for e in here:
                    letter = letters[e.need.name]
                    fixed = e.need.fixed_bytes(e.tensor_parallel, model.constants)
                    bar += letter * max(1, round(fixed / unit)) + letter.lower() * round(e.kv_bytes / unit)
                lines.append(f"  GPU {d:<2} |{bar[:BAR]:.<{BAR}}| {who or 'idle'}")
        legend = ", ".join(f"{v} {k}" for k, v in letters.items())
        what = "part of the core's time" if model.cpu else "capitals: weights, small: KV cache; % of the GPU's time"
        return "\n".join([*lines, f"  {legend}  ({what})"])

    def explain(self) -> str:
        """Why other layouts lose."""
        if not self.alternatives:
            return ""
        rows = [["instead", "samples/s", "against this", "why"]]
        for a in self.alternatives:
            ratio = a.samples_per_s / self.samples_per_s
            rows.append(
                [
                    a.name,
                    f"{a.samples_per_s:.3g}" if a.samples_per_s else "-",
                    f"{ratio:.0%}" if ratio else "does not fit",
                    a.why,
                ]
            )
        return _columns(rows)


def report(solution: Solution) -> PlacementReport:
    """Compare a placement with what one would try first."""
    if solution.model.cpu:
        others = list(_cpu_alternatives(solution))
    else:
        others = list(_gpu_alternatives(solution))
    others.sort(key=lambda a: -a.samples_per_s)
    return PlacementReport(solution, tuple(others))


def render(solution: Solution) -> str:
    """A placement as plain text, with table, picture and explanation."""
    return report(solution).render()


def _cpu_alternatives(solution: Solution) -> Iterable[Alternative]:
    model = solution.model
    if len(model.needs) < 2:
        return
    for name, rota in (("all awake", model.together()), ("one awake at a time", model.one_by_one())):
        if rota is None:
            need = sum(n.facts.weight_bytes for n in model.needs) / GB
            yield Alternative(
                name,
                0.0,
                f"host memory: {need:.1f} GB of weights and {len(model.needs)} engines in {model.memory / GB:.1f} GB",
            )
        elif not _same(rota, solution.rota):
            why = f"swaps take {rota.swap_share:.0%} of the time" if len(rota.turns) > 1 else "engines share cores"
            yield Alternative(name, rota.samples_per_s, why)


def _gpu_alternatives(solution: Solution) -> Iterable[Alternative]:
    model = solution.model
    needs = model.needs
    space = Space(tuple(needs), model.devices, model.memory, model.constants)
    for name, engines in _naive(space):
        if not engines:
            continue
        hosts = place(space, engines)
        if not hosts:
            yield Alternative(name, 0.0, _shortage(space, engines))
            continue
        rate, shared = share_time(space, hosts)
        if not _alike(shared, solution.rota):
            yield Alternative(name, rate, _waste(space, shared))
    if any(n.tensor_parallel or n.replicas or n.kv_bytes for n in needs):
        free = tuple(dataclasses.replace(n, tensor_parallel=0, replicas=0, kv_bytes=0) for n in needs)
        other = dataclasses.replace(model, needs=free, effort=0.5, _known={}, _ideals={})
        rota = other.together()
        if rota and len(solution.rota.turns) == 1:
            yield Alternative(
                "without your pins",
                rota.samples_per_s,
                "tensor_parallel, replicas and kv_cache_gb as placement would choose",
            )
    if len(needs) > 1:
        if len(solution.rota.turns) > 1:
            awake = model.together()
            name, missing = missing_together(model, needs)
            why = "KV cache too small" if awake else f"no room for {name}: {missing:.1f} GB missing"
            yield Alternative("all awake", awake.samples_per_s if awake else 0.0, why)
        turns = model.one_by_one()
        if turns and not _same(turns, solution.rota):
            yield Alternative(
                "one awake at a time", turns.samples_per_s, f"swaps take {turns.swap_share:.0%} of the time"
            )


def _naive(space: Space) -> Iterable[tuple[str, list[tuple[Need, int, int]]]]:
    """Layouts that one would write down by hand."""
    big = [n for n in space.needs if n.generates]
    light = [(n, 1, space.devices - 1) for n in space.needs if not n.generates]
    smallest = {}
    for n in big:
        fits = [t for t in space.splits(n) if space.fit(n, t).size <= space.memory]
        if not fits:
            return
        smallest[n.name] = fits[0]
    engines: list[tuple[Need, int, int]] = []
    first = 0
    for n in big:
        engines.append((n, smallest[n.name], first))
        first += smallest[n.name]
    title = "one model per GPU" if set(smallest.values()) == {1} else "each model on GPUs of its own"
    if len(big) == 1:
        n = big[0]
        for t in space.splits(n):
            blocks = range(0, space.devices - t + 1, t)
            yield (
                f"TP={t}, {len(blocks)} replica{'s' if len(blocks) > 1 else ''}",
                [*((n, t, f) for f in blocks), *light],
            )
        return
    if first <= space.devices:
        yield title, [*engines, *light]
        more, turn = list(engines), 0
        while first + smallest[big[turn % len(big)].name] <= space.devices:
            n = big[turn % len(big)]
            more.append((n, smallest[n.name], first))
            first += smallest[n.name]
            turn += 1
        if turn:
            yield f"{title}, replicas on the others", [*more, *light]
    else:
        yield title, []
    for t in sorted({t for n in big for t in space.splits(n)}):
        sizes = {n.name: max((s for s in space.splits(n) if s <= t), default=0) for n in big}
        if all(sizes.values()) and space.devices > 1 and max(sizes.values()) == t:
            name = "every model on every GPU" + (f", TP={t}" if t > 1 else "")
            yield (
                name,
                [
                    *((n, s, f) for n in big for s in [sizes[n.name]] for f in range(0, space.devices - s + 1, s)),
                    *light,
                ],
            )


def _shortage(space: Space, engines: Sequence[tuple[Need, int, int]]) -> str:
    used = [0.0] * space.devices
    for n, t, first in engines:
        for d in range(first, first + t):
            used[d] += space.fit(n, t).size
    return f"{(max(used) - space.memory) / GB:.1f} GB missing per GPU"


def _waste(space: Space, hosts: Sequence[Host]) -> str:
    """What a layout loses, largest part first."""
    constants = space.constants
    on = [[h for h in hosts if d in h.devices] for d in range(space.devices)]
    usable = [space.usable(sum(h.need.generates for h in here)) for here in on]
    work = sum(h.time * h.tensor_parallel for h in hosts)
    parts: list[tuple[float, str]] = []
    if empty := sum(not here for here in on):
        parts.append((empty / space.devices, f"{empty} of {space.devices} GPUs idle"))
    most: dict[str, float] = {}
    for h in (h for h in hosts if h.need.generates):
        most[h.need.name] = most.get(h.need.name, 0.0) + h.samples_per_s * h.time
    slowest = min(most, key=lambda name: most[name])
    ahead = 1 - len(most) * most[slowest] / sum(min(v, 2 * most[slowest]) for v in most.values())
    parts.append((ahead, f"the others are ahead of {slowest}, by {ahead:.0%} of their work"))
    lost = 1 - sum(usable) / space.devices
    parts.append((lost, f"sharing GPUs costs {lost:.0%} of the time"))
    curves = [space.fit(h.need, h.tensor_parallel).curve for h in hosts]
    link = sum(c.link_share(h.kv_bytes) * h.time * h.tensor_parallel for c, h in zip(curves, hosts, strict=True)) / max(
        work, 1e-9
    )
    parts.append((link, f"all-reduces take {link:.0%} of a step"))
    room = sum(h.batch(constants) for h in hosts if h.need.generates)
    small = min(h.batch(constants) for h in hosts if h.need.generates)
    if room > constants.calls_in_flight:
        each = constants.calls_in_flight / sum(h.need.generates for h in hosts)
        parts.append((0.2 * (1 - each / constants.max_running), f"{each:.0f} calls in flight per engine"))
    elif small < constants.max_running:
        held = f"KV cache for {small:.0f} of {constants.max_running:.0f} calls at once"
        parts.append((0.3 * (1 - small / constants.max_running), held))
    heavy = sum(h.need.facts.weight_bytes / h.tensor_parallel for here in on[:1] for h in here) / space.memory
    parts.append((0.02, f"{heavy:.0%} of memory holds weights"))
    told = [text for share, text in sorted(parts, reverse=True) if share > 0.03] or [max(parts)[1]]
    return "; ".join(told[:2])


def _same(a: Rota, b: Rota) -> bool:
    return [sorted(e.need.name for e in t.engines) for t in a.turns] == [
        sorted(e.need.name for e in t.engines) for t in b.turns
    ]


def _alike(hosts: Sequence[Host], rota: Rota) -> bool:
    """Whether these are the chosen engines."""
    chosen = sorted((e.need.name, e.tensor_parallel, e.devices) for e in rota.turns[0].engines)
    return len(rota.turns) == 1 and sorted((h.need.name, h.tensor_parallel, h.devices) for h in hosts) == chosen


def _ranges(numbers: Sequence[int]) -> str:
    """`0-3` for consecutive numbers, else with commas."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns: the first and the last to the left, the others to the right."""
    widths = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            c.ljust(w) if k in (0, last) else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in rows
    )
