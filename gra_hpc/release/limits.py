"""What a reader has to know before trusting a release: one sentence each, all from the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from gra_hpc.flows.registry import find
from gra_hpc.release import gold
from gra_hpc.run.target import Target, not_needed
from gra_hpc.terminal import counted, printable

PAPER = {"accept_mean": 8.0, "accept_sd": 1.5, "adjudicate_mean": 8.0}
"""Thresholds of the paper, section 4."""
SMALL = 1_000_000_000
"""Below so many parameters a model's verdicts say little."""


def _few(seated: int, method: dict[str, Any]) -> list[str]:
    """What a committee of so few members cannot do."""
    reviewers = min(method["reviewers"], max(seated - 1, 1))
    if reviewers == 1:
        return [
            "**One Reviewer decided each row**: there was nobody to disagree with, so the deviation is always 0 and"
            " nothing was adjudicated."
        ]
    if seated - 1 <= reviewers and method["settle"] == "adjudicator":
        return ["No member was left to adjudicate: where the Reviewers disagreed, the one nearest to the mean decided."]
    return []


def limits(facts: dict[str, Any], named: Callable[[str], str] = printable) -> list[str]:
    """What a reader has to know before trusting the data; each follows from the manifest.

    Args:
        named: how the name of a model is shown.
    """
    method, out = facts["config"]["method"], []
    if facts["simulated"]:
        out.append(
            "**The answers are simulated.** No language model was asked: texts and scores are made up, to test the"
            " machinery. Do not train on them."
        )
    if not any(s["rows"] for s in facts["splits"].values()):
        out.append("**No row survived.** The table is empty; `load_dataset` refuses to open it.")
    if "result" in facts:
        return [*out, *_of_models(facts, named), *_checks(facts)]
    if not find(method["flow"]).asks:
        out.append("**These are the seeds themselves**: nothing was generated, and nothing was reviewed.")
        return [*out, *_checks(facts)]
    lower = [f"`{k}` {method[k]:g} (paper: {v:g})" for k, v in PAPER.items() if looser(k, method[k])]
    if lower:
        out.append(f"**Accepted by looser thresholds than the paper's**: {', '.join(lower)}.")
    out += _of_models(facts, named)
    if not method["review_response"]:
        out.append("**Responses were not reviewed**: every response that could be read was accepted.")
    elif not method["review_instruction"]:
        out.append("Instructions were not reviewed on their own.")
    if method["settle"] == "majority":
        out.append("Where the Reviewers disagreed, their majority decided; there was no Adjudicator.")
    one = {m["model"] for m in facts["config"]["committee"].values()}
    if len(one) == 1 and not facts["simulated"]:
        out.append(
            "All seats of the committee are one model: it reviews its own writing, and agreement among its seats is not"
            " independent evidence."
        )
    seated = len(facts["config"]["committee"])
    if method["review_response"] and method["policy"] in ("random", "performance") and seated < 4:
        out += _few(seated, method)
    out += gold.limits(facts.get("gold"), named)
    if "decided" in facts:
        out += _decided(facts)
    out += _checks(facts)
    if facts["thoughts"]["rows"]:
        out.append("Nobody reviewed the thoughts: the Reviewers saw responses alone.")
    out.append(f"Scores are opinions of language models. {_people(facts)}")
    return out


def _of_models(facts: dict[str, Any], named: Callable[[str], str]) -> Iterator[str]:
    """Limits that follow from how large the models are, and where they run."""
    small = [n for n, m in facts["models"].items() if m["parameters"] and m["parameters"] < SMALL]
    if small and not facts["simulated"]:
        sizes = ", ".join(f"{named(n)} ({millions(facts['models'][n]['parameters'])})" for n in small)
        yield (
            f"**Models under one billion parameters: their verdicts mean little.** {sizes}. A high score from such a"
            " model is no evidence of quality."
        )
    unknown = [n for n, m in facts["models"].items() if not m["parameters"]]
    if unknown and not facts["simulated"]:
        yield (
            f"**How large some models are is not known**: {', '.join(map(named, unknown))}. A high score from one under"
            " one billion parameters is no evidence of quality."
        )
    hosted = [f"{named(n)} ({named(m['served'])} at {host(m)})" for n, m in facts["models"].items() if m.get("served")]
    if hosted and not facts["simulated"]:
        yield (
            f"**Hosted elsewhere**: {', '.join(hosted)}. Which weights answered is known by the server's word alone: no"
            " digest pins them, and the same name may stand for others later."
        )


def _people(facts: dict[str, Any]) -> str:
    """Whether people have looked at the rows, and what they say."""
    found = facts.get("people")
    if not found:
        return "No human has checked the rows, nor their facts."

    def shown(f: dict[str, float | None]) -> str:
        return "an unknown share" if f["value"] is None else f"{f['value']:.0%} ({f['low']:.0%} to {f['high']:.0%})"

    who = "One person" if found["people"] == 1 else f"{found['people']} people"
    return (
        f"{who} judged {counted(found['judged'], 'sample')} without knowing its verdict: they agree with the committee"
        f" on {shown(found['agreement'])}, and would keep {shown(found['corrected_share'])} of what it scored, where it"
        f" accepted {found['accepted_share']:.0%}. Nobody has checked the other rows."
    )


def _decided(facts: dict[str, Any]) -> Iterator[str]:
    """Limits of rows that were decided again from stored scores."""
    then_and_now = facts["decided"]["thresholds"].items()
    changes = ", ".join(f"`{key}` {was} is now {now}" for key, (was, now) in then_and_now if was != now)
    yield (
        f"**Decided again from stored scores**, without asking a model: {changes or 'with the same thresholds'}. Rows"
        " that are accepted only now have their instruction's first words as summary."
    )
    undecided = sum(facts["ledger"]["failed"].get(reason, 0) for reason in UNDECIDED)
    if undecided:
        yield (
            f"{counted(undecided, 'sample')} could not be decided: the Adjudicator, or a Reviewer, was never asked."
            " They count as failed."
        )
    if len(facts["rounds"]) > 1:
        yield "Rounds after the first drew their examples by the first decision."


UNDECIDED = ("adjudication: the Adjudicator was not asked", "response_review: not all Reviewers were asked")
"""What the ledger says of samples that other thresholds leave open (`judging/decisions.py`)."""


def _checks(facts: dict[str, Any]) -> Iterator[str]:
    """Limits of any release: coverage, target, contamination."""
    c = facts["coverage"]
    unneeded = sum(map(len, c.get("unneeded", {}).values()))
    if c["published"] + unneeded < c["expected"]:
        yield f"**Partial**: made from {c['published']} of {c['expected']} planned shards."
    if unneeded:
        yield (
            f"{not_needed(unneeded, c['expected'])}: the target was met without their"
            f" {counted(c['spared'], 'candidate')}. Rows were chosen among fewer, and which shards were made depends on"
            " how the run went."
        )
    for number, by_merge in c.get("late", {}).items():
        for merge, shards in by_merge.items():
            which = f"shard {shards[0]}" if len(shards) == 1 else f"shards {', '.join(map(str, shards))}"
            yield (
                f"{which.capitalize()} of round {number} came late: merged with round {merge}; no example of rounds"
                f" {int(number) + 1} to {merge} is from there."
            )
    pending = facts["ledger"]["pending"] - c.get("spared", 0)
    if pending:
        yield f"{counted(pending, 'candidate')} pending: neither in the data nor in `rejects/`."
    if short := Target.of((r["target"], r["survived"]) for r in facts["rounds"]).short:
        yield f"{counted(short, 'row')} short of the target."
    if not facts["config"]["merge"]["decontamination"]["sources"]:
        yield "Not checked for overlap with any benchmark."


def looser(key: str, value: float) -> bool:
    """Whether a threshold lets more through than the paper's."""
    return value > PAPER[key] if key == "accept_sd" else value < PAPER[key]


def host(model: dict[str, Any]) -> str:
    """The machine that an endpoint's address names."""
    return urlsplit(model["endpoint"]).hostname or "?"


def millions(parameters: int | None) -> str:
    """`135M`, `7.6B`, or `unknown`."""
    if not parameters:
        return "unknown"
    if parameters < SMALL:
        return f"{parameters / 1e6:.0f}M"
    return f"{parameters / 1e9:.1f}B"
