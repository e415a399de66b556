#!/usr/bin/env python3
"""docs/configuration.md out of the docstrings and bounds of the fields in gra_hpc/config/.

    python tools/docs/make_config_reference.py [--check]

With `--check` nothing is written; the exit code says whether the file is up to date.
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from gra_hpc.config import flow_sections
from gra_hpc.config.explain import field_docs
from gra_hpc.config.fields import Bounds, bounds_of
from gra_hpc.config.references import VARIABLES
from gra_hpc.config.settings import RunConfig

TARGET = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

BY_CONTENT = ("seeds.", "models.NAME.path", "models.NAME.revision", "models.NAME.endpoint.model", "merge.embed_model")
"""Keys that name files: the fingerprint takes what is in them, wherever they lie."""
FREE = ("models.NAME.licence", "seeds.licence")
"""Words for the dataset card; `plan.frozen` leaves them out."""

PARTLY = ("models.NAME.engine_args",)
"""Maps of which some keys are frozen: `plan.frozen` puts those in."""

HEAD = """\
# Configuration

<!-- Written by tools/docs/make_config_reference.py from docstrings and bounds in gra_hpc/config/. -->

A run is described by one configuration. `gra plan` composes it from a preset (`configs/*.yaml`, or a file of
yours), a site (`configs/sites/*.yaml`) and words `key=value`, in this order; `gra config show` prints the result
with the meaning and the bounds of each key. A preset may name others in `include: [...]`; they come first.

```bash run
gra config show --preset demo method.reviewers=2
```

Values are YAML: `method.rounds=5`, `seeds.path=my.jsonl`, `merge.decontamination.sources=[gsm8k.jsonl, org/bench]`,
`engine.env={VLLM_LOGGING_LEVEL: DEBUG}`.

**Frozen** keys are part of a run's fingerprint: what is written depends on them, so they are fixed when the run is
planned, and `gra resume` refuses to change them (*content*: what the files hold counts, not where they lie). The
others say where and how work is done: they may change between two attempts (`gra resume RUN site.partition=long`).
Of `engine_args` a named list says so (devices, memory, scheduling, kernels, loading, logs and ports); any other
argument is frozen, and each shard's manifest records the command line that its engines ran with.

Paths that are relative start at the working directory, not at the preset: those of templates (`method.prompts`), gold
questions (`method.gold`), models, chat templates and benchmarks too. `seeds.path` is looked for in `configs/` as well.
A model is a directory, or a Hub id that lies in a local cache (`gra fetch`).
`site.scratch`, `site.python` and `site.container` may hold variables of the login
node's shell (`$SCRATCH`), `site.local_dir` those of the compute node's (`$SLURM_TMPDIR`).
"""

REFERENCES = f"""\
What a value resolves to is written into plans, manifests and cards, so nothing resolves that could read a secret.
`${{method.rounds}}` in a value stands for another key of the configuration; OmegaConf's resolvers (`${{oc.env:NAME}}`)
are refused. In the four paths above expand {", ".join(f"`${name}`" for name in VARIABLES)}, and no other variable.
"""


def main() -> None:
    """Write or compare."""
    text = "\n".join(page()) + "\n"
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET.name} is not up to date -> python tools/docs/make_config_reference.py")
        return
    TARGET.write_text(text, encoding="utf-8")


def page() -> Iterator[str]:
    """Lines of the page."""
    yield HEAD
    yield "\n".join(textwrap.wrap(REFERENCES, 118, break_long_words=False)) + "\n"
    yield from section("", RunConfig, frozen=True)
    for flow in flow_sections.ours().values():
        if flow.settings is not None:
            words = f"Settings of the flow of this name; the section is there with `method.flow={flow.name}` alone."
            yield from section(f"{flow.name}.", flow.settings, frozen=True, doc=words)


def section(prefix: str, kind: Any, frozen: bool, doc: str = "") -> Iterator[str]:
    """A table per dataclass, those nested in it behind it."""
    hints, docs = get_type_hints(kind), field_docs(kind)
    rows, nested = [], []
    for f in dataclasses.fields(kind):
        hint, mine = hints[f.name], frozen and bool(f.metadata.get("fingerprint", True))
        args = get_args(hint)
        if dataclasses.is_dataclass(hint):
            nested.append((f"{prefix}{f.name}", hint, mine, docs.get(f.name, "")))
        elif len(args) == 2 and dataclasses.is_dataclass(args[1]):
            nested.append((f"{prefix}{f.name}.NAME", args[1], mine, docs.get(f.name, "")))
        else:
            key = f"{prefix}{f.name}"
            mark = "" if not mine or key in FREE else "content" if key.startswith(BY_CONTENT) else "yes"
            mark = "in part" if key in PARTLY else mark
            meaning = docs.get(f.name, "").replace("|", "\\|")
            rows.append(f"| `{key}` | {type_name(hint, bounds_of(f))} | {default(f)} | {mark} | {meaning} |")
    if prefix:
        yield f"\n## `{prefix[:-1]}`\n"
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        yield (
            doc if not summary else f"{doc} {summary}" if doc and doc.rstrip(".") != summary.rstrip(".") else summary
        )
    if rows:
        yield "\n| key | type | default | frozen | meaning |\n|---|---|---|---|---|"
        yield from rows
    for name, inner, mine, text in nested:
        yield from section(f"{name}.", inner, mine, text)


def type_name(hint: Any, bounds: Bounds | None = None) -> str:
    """A type for people, with its bounds."""
    if bounds and bounds.choices and get_origin(hint) is not dict:
        several = "list of " if get_origin(hint) is list else ""
        return several + " \\| ".join(map(str, bounds.choices))
    if bounds and not bounds.needed:
        return f"{type_name(hint)}, {bounds}"
    args = [a for a in get_args(hint) if a is not type(None)]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " \\| ".join(e.value for e in hint)
    origin = getattr(hint, "__origin__", None)
    if origin is list:
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return "map"
    if args:
        return f"{type_name(args[0])} or null"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true \\| false"}.get(
        getattr(hint, "__name__", ""), "any"
    )


def default(f: dataclasses.Field[Any]) -> str:
    """A default as it would be typed."""
    value = f.default
    if value is dataclasses.MISSING:
        value = f.default_factory() if f.default_factory is not dataclasses.MISSING else ""
    if value == MISSING:
        return "(needed)"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None or value == "":
        return ""
    return f"`{value}`"


if __name__ == "__main__":
    main()
