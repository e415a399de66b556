"""Feeding: the calls of one sample share a replica's cache, and a slice begins with its longest samples."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines.dispatcher import prefixes
from gra_hpc.engines.node import Node
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.flows.gra.questions import PROMPTS
from gra_hpc.flows.render import render
from gra_hpc.flows.units import Unit
from gra_hpc.placement.placement import EnginePlace, Placement
from gra_hpc.records import Record, Roles, Sample
from gra_hpc.run.window import in_order
from tools.simulated.server import Faults, launcher

PERSONAS = ("You are strict.", "You teach beginners.", "You look for mistakes.")


def reviews(sample: int) -> list[tuple[dict[str, str], ...]]:
    """What three members over one model are asked about one short sample."""
    variables = {
        "instruction": f"{sample}: say which is larger, 3 or 5.",
        "context": "",
        "response": f"5, of course {sample}.",
    }
    return [render("review_response", variables, PROMPTS, p) for p in PERSONAS]


def test_reviews_of_one_sample_share_their_beginning() -> None:
    first, second, third = map(prefixes, reviews(1))
    assert len(first) >= 5
    assert first[:5] == second[:5] == third[:5]
    other = prefixes(reviews(2)[0])
    assert other[0] == first[0]  # the rubric is every sample's
    assert other[4] != first[4]  # the sample comes before the persona and the form of the answer


def test_calls_of_one_sample_to_one_model_go_to_the_same_replica(short_dir: Path) -> None:
    placement = Placement(tuple(EnginePlace("m", r, ()) for r in range(2)), "cpu")
    command = launcher(Faults(latency_s=0.02))

    async def work() -> None:
        settings = EngineConfig(start_timeout_s=60)
        models = {"m": ModelConfig(path="m")}
        async with (
            asyncio.timeout(60),
            Node(models, placement, settings, short_dir, short_dir / "logs", command) as node,
        ):
            await node.start()
            before = [0, 0]
            for sample in range(8):
                asked = [
                    node.ask(Request("m", "", messages, Sampling(0.2, 0.9, 64, seat)))
                    for seat, messages in enumerate(reviews(sample))
                ]
                await asyncio.gather(*asked)
                now = [e["calls"] for e in node.stats()["engines"].values()]
                assert sorted(b - a for a, b in zip(before, now, strict=True)) == [0, 3]
                before = now

    asyncio.run(work())


def unit(number: int, answer: str) -> Unit:
    anchor = Record(str(number), "question", answer)
    return Unit(Sample(f"s{number}", 1, anchor.id, 0, "qa", Roles("a", ("b",), "c", "d")), anchor, ())


def test_a_slice_begins_with_its_longest_samples() -> None:
    units = [unit(n, "x" * length) for n, length in enumerate([5, 50, 1, 20])]
    first, known = in_order(units, [], 2)
    assert [u.sample.id for u in first] == ["s1", "s3", "s0", "s2"]
    assert known == []
    first, known = in_order(units, ["s2", "s0"], 1)  # cut off samples first, the latest touched before others
    assert [u.sample.id for u in first] == ["s2", "s0", "s1", "s3"]
    assert known == []
