"""Scores that a program gives, for the tasks of this directory: the harness calls them with a row and its answer."""

import json
import re


def followed(doc: dict, results: list) -> dict:
    """Whether the answer has the form that was asked for."""
    return {"followed": float(CHECKS[doc["kind"]](doc, results[0].strip()))}


def fluency(doc: dict, results: list) -> dict:  # noqa: ARG001
    """Share of different runs of three words in the answer (1: nothing is repeated; 0 for fewer than three words)."""
    words = re.findall(r"\w+", results[0].casefold())
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return {"distinct_3": len(set(runs)) / len(runs) if runs else 0.0, "words": float(len(words))}


def bullets(doc: dict, answer: str) -> bool:
    """Exactly n lines, each a bullet point with something behind it."""
    lines = [line for line in answer.splitlines() if line.strip()]
    return len(lines) == doc["n"] and all(re.match(r"- \S", line) for line in lines)


def words(doc: dict, answer: str) -> bool:
    """Exactly n words."""
    return len(answer.split()) == doc["n"]


def choice(doc: dict, answer: str) -> bool:
    """One of the options and nothing else, but for case and a full stop."""
    return answer.rstrip(".!").strip().lower() in doc["options"]


def json_object(doc: dict, answer: str) -> bool:
    """A JSON object with exactly these keys."""
    try:
        found = json.loads(answer)
    except ValueError:
        return False
    return isinstance(found, dict) and sorted(found) == sorted(doc["keys"])


def sentences(doc: dict, answer: str) -> bool:
    """Exactly n sentences, all of them ended."""
    ends = re.findall(r"[.!?](?=\s|$)", answer)
    return len(ends) == doc["n"] and answer[-1:] in ".!?"


def lower(doc: dict, answer: str) -> bool:  # noqa: ARG001
    """Letters, none of them a capital."""
    return any(c.isalpha() for c in answer) and answer == answer.lower()


def ends(doc: dict, answer: str) -> bool:
    """The word comes last, behind something else."""
    return answer.rstrip(".!").endswith(doc["word"]) and len(answer.split()) > 1


CHECKS = {
    "bullets": bullets,
    "words": words,
    "choice": choice,
    "json": json_object,
    "sentences": sentences,
    "lower": lower,
    "ends": ends,
}
