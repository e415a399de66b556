"""Conversations as tokens: chat template, loss on the assistant's words alone, packing. Made once, then only mapped.

Rank 0 prepares the examples before the first step and renames them into place, so that every attempt trains on the same
rows in the same order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gra_hpc.errors import ConfigError, SeedError
from gra_hpc.sources.files import excerpt
from gra_hpc.storage import full_disk_as_error, read_object, to_json
from gra_hpc.thoughts import CLOSING, OPENING
from gra_hpc.training.config import FinetuneConfig, TooLong
from gra_hpc.training.examples import Example, Messages
from gra_hpc.training.examples import read_examples as read_examples
from gra_hpc.whole_directory import Staging

log = logging.getLogger(__name__)

IGNORED = -100
"""Label of a token without a loss."""
MANIFEST = "tokens.json"


@dataclass(frozen=True)
class Encoded:
    """One conversation."""

    input_ids: list[int]
    labels: list[int]
    """`input_ids`, with `IGNORED` for all that the assistant does not say."""

    @property
    def trained(self) -> int:
        """Tokens with a loss."""
        return sum(label != IGNORED for label in self.labels)


def encode(tokenizer: Any, messages: Messages, tools: Sequence[dict[str, Any]] = ()) -> Encoded:
    """Apply the chat template, and find what the assistant says in it: its words and its end-of-turn token.

    Args:
        tokenizer: a fast tokenizer (it knows where each token lies in the text).
        messages: ends with an assistant's turn.
        tools: what the assistant may call.

    Raises:
        ConfigError: no chat template.
        Unfit: one that does not take the conversation, or rewrites earlier turns, so that turns cannot be told apart.
    """
    whole, spans = render(tokenizer, messages, tools)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels = list(encoded["input_ids"]), []
    for token, (start, _) in zip(ids, encoded["offset_mapping"], strict=True):
        labels.append(token if any(a <= start < b for a, b in spans) else IGNORED)
    last = max((i for i, label in enumerate(labels) if label != IGNORED), default=-1) + 1
    special = set(tokenizer.all_special_ids)
    ends = [i for i in range(last) if labels[i] != IGNORED and ids[i] in special]
    if ends and not tokenizer.decode(ids[ends[-1] + 1 : last]).strip():
        last = ends[-1] + 1  # white space that a template puts behind the end of a turn: a model never gets to say it
    return Encoded(ids[:last], labels[:last])


class Unfit(ConfigError):
    """A conversation that a chat template does not take; others may be fine."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"model.chat_template: {why}",
            "model.chat_template=alpaca (it knows no tools), or the file of a template that only appends",
        )
        self.why = why


def render(
    tokenizer: Any, messages: Messages, tools: Sequence[dict[str, Any]] = ()
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and from where to where in it the assistant speaks."""
    if not tokenizer.chat_template:
        raise ConfigError("model: its tokenizer has no chat template", "model.chat_template=alpaca")
    text = partial(tokenizer.apply_chat_template, tokenize=False)
    named = {"tools": list(tools) or None}
    spans, whole = [], ""
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        if not number:  # words that begin a conversation answer nothing
            continue
        try:
            before = text(messages[:number], add_generation_prompt=True, **named)
            after = text(messages[: number + 1], **named)
        except Exception as e:  # whatever a template raises for a conversation that it was not written for
            raise Unfit(f"the template does not take the conversation ({excerpt(e, 80)})") from None
        if (message.get("content") or "").startswith(OPENING) and CLOSING.strip() not in after[len(whole) :]:
            raise Unfit("the template leaves the thoughts out (data.thoughts=drop trains without them)")
        if not before.startswith(whole) or not after.startswith(before):
            raise Unfit(
                "the template changes earlier turns when later ones come, so the assistant's words cannot be found"
            )
        spans.append((len(before), len(after)))
        whole = after
    if lost := _left_out(text, messages, tools):
        raise Unfit(f"the template leaves {lost} out")
    return whole, spans


def _left_out(text: Callable[..., str], messages: Messages, tools: Sequence[dict[str, Any]]) -> str:
    """What of a conversation a template passes by without an error; empty: nothing. It is what it does not know, and
    without it the rest means something else. A word of our own in each place tells.

    Args:
        text: applies the template.
    """
    words: dict[str, str] = {}

    def marked(value: str, what: str) -> str:
        word = f"mark{len(words)}mark"
        words[word] = what
        return f"{value} {word}"

    def called(call: dict[str, Any]) -> dict[str, Any]:
        function = {**call["function"], "name": marked(call["function"]["name"], "calls of tools")}
        return {**call, "function": function}

    kinds = {"system": "the system's words", "tool": "results of tools"}
    seen = [{**m, "content": marked(m["content"], kinds[m["role"]])} if m["role"] in kinds else m for m in messages]
    seen = [{**m, "tool_calls": list(map(called, m["tool_calls"]))} if "tool_calls" in m else m for m in seen]
    described = [
        {**t, "function": {**t["function"], "name": marked(t["function"]["name"], "the descriptions of tools")}}
        if isinstance(t.get("function"), dict) and "name" in t["function"]
        else t
        for t in tools
    ]
    if not words:
        return ""
    try:
        whole = text(seen, tools=described or None)
    except Exception:  # it takes the conversation, and not our words in it
        return ""
    return next((what for word, what in words.items() if word not in whole), "")


def encodings(tokenizer: Any, examples: Iterable[Example], left_out: Counter[str]) -> Iterator[Encoded]:
    """The examples that the chat template takes; the others are counted by the reason.

    Raises:
        Unfit: it takes none of them.
    """
    taken, unfit = 0, Counter[str]()
    for example in examples:
        try:
            one = encode(tokenizer, example.messages, example.tools)
        except Unfit as e:
            unfit[e.why] += 1
            continue
        taken += 1
        yield one
    if unfit and not taken:
        raise Unfit(unfit.most_common(1)[0][0])
    left_out.update(unfit)


def end_of_turn(tokenizer: Any) -> int | None:
    """The token with which the assistant ends its turn, as the chat template has it."""
    probe = encode(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    last = probe.input_ids[-1]
    return last if last in set(tokenizer.all_special_ids) else None


def prepare(config: FinetuneConfig, tokenizer: Any, target: Path) -> dict[str, Any]:
    """Write the examples as tokens into `target`, unless they are there; renamed into place when they are whole.

    Returns:
        Its manifest: rows and tokens, what was left out and why.

    Raises:
        SeedError, ReleaseError: no data, or none that fits.
    """
    if (target / MANIFEST).is_file():
        return read_object(target / MANIFEST)
    from datasets import Dataset
    from trl import pack_dataset

    d = config.data
    found = read_examples(
        d.path,
        min_score=d.min_score,
        last_round=d.last_round,
        limit=d.limit,
        limit_seed=d.limit_seed,
        scratch=config.site.scratch,
        thoughts=d.thoughts,
    )
    counts: Counter[str] = Counter()
    encoded = encodings(tokenizer, found.conversations, found.refused)
    table = _table(_fitting(encoded, d.max_length, d.too_long, counts))
    if not len(table):
        raise SeedError(
            f"{d.path}: no example of at most {d.max_length} tokens", "data.max_length=MORE, data.too_long=truncate"
        )
    rows = Dataset(table).shuffle(seed=config.seed).flatten_indices()
    if d.packing:
        rows = pack_dataset(rows, d.max_length, "bfd").shuffle(seed=config.seed).flatten_indices()
    manifest = {
        "source": found.source,
        "read": found.read,
        "with_thoughts": sum((e.messages[-1].get("content") or "").startswith(OPENING) for e in found.conversations),
        "left_out": dict(found.refused) | {k: counts[k] for k in ("longer than data.max_length",) if counts[k]},
        "left_aside": dict(found.aside),
        "truncated": counts["truncated"],
        "examples": len(table),
        "tokens": counts["tokens"],
        "trained_tokens": counts["trained"],
        "rows": len(rows),
        "filled": round(counts["tokens"] / (len(rows) * d.max_length), 4) if d.packing else None,
    }
    with full_disk_as_error(target), Staging(target) as staging:
        rows.save_to_disk(str(staging.out / "data"))
        (staging.out / MANIFEST).write_bytes(to_json(manifest))
        # another copy of this job may have been faster, with the same content
        staging.publish(better=lambda: not (target / MANIFEST).is_file())
    log.info("%s examples, %s tokens, %s rows", manifest["examples"], manifest["tokens"], manifest["rows"])
    return manifest


def load(target: Path) -> Any:
    """The prepared rows: a `datasets.Dataset` with `input_ids`, `labels` and, packed, `seq_lengths`."""
    from datasets import load_from_disk

    return load_from_disk(str(target / "data"))


def _fitting(examples: Iterable[Encoded], longest: int, too_long: TooLong, counts: Counter[str]) -> Iterator[Encoded]:
    for one in examples:
        if len(one.input_ids) > longest:
            cut = Encoded(one.input_ids[:longest], one.labels[:longest])
            if too_long is TooLong.drop or not cut.trained:
                counts["longer than data.max_length"] += 1
                continue
            one = cut
            counts["truncated"] += 1
        counts["tokens"] += len(one.input_ids)
        counts["trained"] += one.trained
        yield one


def _table(examples: Iterable[Encoded]) -> Any:
    """An Arrow table, built a thousand rows at a time: Python lists of numbers take ten times the memory."""
    import pyarrow as pa

    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    tables = [
        pa.table({"input_ids": [e.input_ids for e in some], "labels": [e.labels for e in some]}, schema)
        for some in _batches(examples, 1000)
    ]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _batches(items: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    some: list[Encoded] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
