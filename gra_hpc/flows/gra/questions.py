"""The questions that roles are asked: template, stage, JSON schema where the answer is guided, and parser."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from gra_hpc.flows import parsing
from gra_hpc.flows.ask import Question
from gra_hpc.records import CRITERIA, DOMAINS, INSTRUCTION_CRITERIA, Record, Review

PROMPTS = Path(__file__).parent / "prompts"
"""Where the templates are."""


def _response(v: dict[str, Any]) -> tuple[str, ...]:
    """What responses are scored by, out of the templates' variables: left out, the paper's."""
    return tuple(v.get("criteria", CRITERIA))


def _instruction(v: dict[str, Any]) -> tuple[str, ...]:
    """The same of instructions."""
    return tuple(v.get("instruction_criteria", INSTRUCTION_CRITERIA))


@cache
def _verdict_schema(criteria: tuple[str, ...], low: int, high: int) -> dict[str, Any]:
    score = {"type": "integer", "enum": list(range(low, high + 1))}
    return {
        "type": "object",
        "properties": {"comment": {"type": "string", "maxLength": 240}, **dict.fromkeys(criteria, score)},
        "required": ["comment", *criteria],
        "additionalProperties": False,
    }


def _description(answer: str, v: dict[str, Any]) -> tuple[str, tuple[str, ...], str]:
    value = parsing.json_object(answer, ("domain", "keywords", "summary"))
    domain = parsing.plain(value.get("domain"))
    known = v.get("domain_names", DOMAINS)
    if domain not in known:
        raise parsing.Unparsable("domain is not one of the seven" if known == DOMAINS else "no such domain")
    words = value.get("keywords")
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise parsing.Unparsable("keywords are not a list of strings")
    found = tuple(dict.fromkeys(" ".join(parsing.plain(w).split()) for w in words if w.strip()))
    if not found:
        raise parsing.Unparsable("no keywords")
    return domain, found[: v["keywords"]], parsing.summary(parsing.plain(value.get("summary", "")), v["summary_words"])


def _description_schema(v: dict[str, Any]) -> dict[str, Any]:
    """Bounded by what will be kept: a model that finds no end is stopped before its answer is cut off."""
    keyword = {"type": "string", "maxLength": 40}
    return {
        "type": "object",
        "properties": {
            "domain": {"type": "string", "enum": list(v.get("domain_names", DOMAINS))},
            "keywords": {"type": "array", "items": keyword, "minItems": 1, "maxItems": v["keywords"]},
            "summary": {"type": "string", "maxLength": 8 * v["summary_words"]},
        },
        "required": ["domain", "keywords", "summary"],
        "additionalProperties": False,
    }


DESCRIBE: Question[tuple[str, tuple[str, ...], str]] = Question(
    "describe", "prepare", _description, _description_schema, prompts=PROMPTS
)

KEYWORDS: Question[tuple[str, ...]] = Question(
    "keywords",
    "keywords",
    lambda a, v: parsing.keywords(a, v["keywords"], (w for e in v["examples"] for w in e.keywords)),
    prompts=PROMPTS,
)

INSTRUCTION: Question[str] = Question("instruction", "instruction", lambda a, _: parsing.text(a), prompts=PROMPTS)

RESPONSE: Question[str] = Question(
    "response", "response", lambda a, _: parsing.verbatim(a), keeps_thoughts=True, prompts=PROMPTS
)

REFINE: Question[str] = Question(
    "refine", "response", lambda a, _: parsing.verbatim(a), keeps_thoughts=True, prompts=PROMPTS
)

REVIEW_INSTRUCTION: Question[tuple[dict[str, int], str]] = Question(
    "review_instruction",
    "instruction_review",
    lambda a, v: parsing.instruction_scores(a, _instruction(v)),
    lambda v: _verdict_schema(_instruction(v), 0, 1),
    prompts=PROMPTS,
)

REVIEW_RESPONSE: Question[tuple[dict[str, int], str]] = Question(
    "review_response",
    "response_review",
    lambda a, v: parsing.response_scores(a, _response(v)),
    lambda v: _verdict_schema(_response(v), 1, 10),
    prompts=PROMPTS,
)

ADJUDICATE: Question[tuple[dict[str, int], str]] = Question(
    "adjudicate",
    "adjudication",
    lambda a, v: parsing.response_scores(a, _response(v)),
    lambda v: _verdict_schema(_response(v), 1, 10),
    prompts=PROMPTS,
)

SUMMARY: Question[str] = Question(
    "summary", "summary", lambda a, v: parsing.summary(a, v["summary_words"]), prompts=PROMPTS
)

_TRIAL = {
    "domain_name": "Math",
    "examples": [Record("a", "Add 2 and 2.", "4", "math", ("sum", "two"), "Adds.")] * 2,
    "instruction": "Add 2 and 2.",
    "response": "4",
    "summary_words": 30,
    "reviews": [Review("a", dict.fromkeys(CRITERIA, 8), "right")] * 2,
}
"""Made-up variables of all templates."""


def trial(step: str) -> dict[str, Any]:
    """Variables that a question can be tried with."""
    return _TRIAL | {"keywords": ("sum", "two") if step == "instruction" else 3}
