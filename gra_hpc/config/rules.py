"""What the values of a configuration must be: within their fields' bounds, and in accord with each other.

Types and keys are OmegaConf's and `presets`' business.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from gra_hpc.config import engine_args, flow_sections, sbatch_options
from gra_hpc.config.endpoint import unfit
from gra_hpc.config.fields import MISSING, Need, bounded_values, bounds_of, expecting
from gra_hpc.config.settings import MethodConfig, ModelConfig, Policy, RunConfig, Thinks
from gra_hpc.errors import ConfigError, nearest
from gra_hpc.records import COUNTS, CRITERIA, INSTRUCTION_CRITERIA, TAKEN


def check(c: RunConfig) -> None:
    """Refuse impossible values.

    Raises:
        ConfigError: naming the key, its value and what was expected.
    """
    need = expecting("gra config show  (explains every key)")
    flow = flow_sections.section(c.method.flow)
    flow.check(c, need)
    partly = c.merge.allow_partial and flow.forwards(c) is not None
    need(not partly, "merge.allow_partial", True, "false where a round works on what the one before forwards")
    asked = not c.method.gold or (flow.gold is not None and c.method.review_response)
    need(asked, "method.gold", c.method.gold, "nothing where no response is reviewed: there is no Reviewer to ask")
    check_bounds(c, need)
    for name, member in c.committee.items():
        need(member.model in c.models, f"committee.{name}.model", member.model, f"one of {', '.join(c.models)}")
    for name, model in c.models.items():
        engine_args.check(name, model.engine_args)
        _check_where(name, c.models, need)
    _check_planted(c, need)
    few, many = c.method.examples_min, c.method.examples_max
    need(few <= many, "method.examples_min", f"{few} (max {many})", "1 <= examples_min <= examples_max <= 16")
    _check_wording(c.method, need)
    _check_fixed(c.method, list(c.committee) or list(c.models), need)
    lead = c.site.signal_lead_s
    need(
        lead <= 0.2 * 60 * c.site.time_minutes,
        "site.signal_lead_s",
        lead,
        f"at most a fifth of the time limit ({int(12 * c.site.time_minutes)} s): beyond it submitit takes a time limit"
        " for a preemption",
    )
    need(re.fullmatch(r"[\w.+@-]*", c.site.mail) is not None, "site.mail", c.site.mail, "one address, or a user's name")
    sbatch_options.check(c.site)
    container = c.site.container
    need(
        not container or container.split(":", 1)[0] in ("apptainer", "pyxis"),
        "site.container",
        container,
        "apptainer:IMAGE or pyxis:IMAGE",
    )


def _check_planted(c: RunConfig, need: Need) -> None:
    """Refuse a table of skill that no simulated engine could follow."""
    truth, skill, key = c.engine.simulated_truth, c.engine.simulated_skill, "engine.simulated_skill"
    try:
        groups = re.compile(truth).groups
    except re.error as e:
        need(False, "engine.simulated_truth", truth, f"a regular expression ({e})")
    else:
        need(groups > 0 or not skill, "engine.simulated_truth", repr(truth), "a group that is the right answer, in ()")
    known = [*c.committee, *c.models, "*"]
    for name in skill:
        need(name in known, f"{key}.{name}", skill[name], f"a member: {', '.join(known)}")
    for share in _leaves(skill):
        need(isinstance(share, (int, float)) and 0 <= share <= 1, key, share, "shares from 0 to 1")


def _leaves(value: Any) -> list[Any]:
    return [x for v in value.values() for x in _leaves(v)] if isinstance(value, dict) else [value]


def _check_where(name: str, models: dict[str, ModelConfig], need: Need) -> None:
    """Refuse a model that is nowhere, or in two places."""
    key, model = f"models.{name}", models[name]
    if not model.endpoint.url:
        given = next((f for f in ("model", "key_env", "key_file") if getattr(model.endpoint, f)), "")
        need(not given, f"{key}.endpoint.url", "", f"an address, since {key}.endpoint.{given} is given")
        there = f"a Hub id or a directory (or an endpoint){_slip(name, models)}"
        need(model.path not in ("", MISSING), f"{key}.path", model.path, there)
        return
    need(not model.path, f"{key}.path", model.path, f"nothing, or no {key}.endpoint.url")
    for name in ("engine_args", "chat_template", "quantization"):
        need(not getattr(model, name), f"{key}.{name}", "(given)", "nothing: the endpoint's server has its own")
    need(
        not model.effort or model.thinking is not Thinks.off,
        f"{key}.effort",
        model.effort,
        "nothing with thinking=off",
    )
    if wrong := unfit(model.endpoint):
        need(False, f"{key}.endpoint.{wrong[0]}", wrong[1], wrong[2])


def _slip(name: str, models: dict[str, ModelConfig]) -> str:
    """Whose name a model's that is nowhere may be a slip of, among those that are somewhere."""
    known = [n for n, m in models.items() if n != name and (m.endpoint.url or m.path not in ("", MISSING))]
    return nearest(name, known)


def check_bounds(value: Any, need: Need, key: str = "") -> None:
    """Refuse values outside their fields' bounds, and numbers that are not finite, wherever they are.

    Args:
        value: a configuration, or a value in it.
        key: where it is; empty for the whole.

    Raises:
        ConfigError: of `need`.
    """
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            inside, item = f"{key}.{f.name}".lstrip("."), getattr(value, f.name)
            if bounds := bounds_of(f):
                for part in bounded_values(item):
                    at = f"{inside}.{part}" if isinstance(item, dict) else inside
                    need(bounds.holds(part), at, part, str(bounds))
            check_bounds(item, need, inside)
    elif isinstance(value, dict):
        for name, item in value.items():
            check_bounds(item, need, f"{key}.{name}")
    elif isinstance(value, list):
        for item in value:
            check_bounds(item, need, key)
    elif isinstance(value, float):
        need(math.isfinite(value), key, value, "a finite number")
    elif isinstance(value, int):
        need(-(2**63) <= value < 2**63, key, f"({value.bit_length()} bits)", "a number of 64 bits")


_LETTERS = "small letters a to z, digits and _, a letter first"
"""What names are made of that become columns, and words of prompts."""


def _check_wording(m: MethodConfig, need: Need) -> None:
    """Refuse names and meanings that prompts and tables cannot take."""
    for name, meaning in m.domains.items():
        need(
            re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) is not None,
            "method.domains",
            name,
            f"names of {_LETTERS}, at most 40",
        )
        need(_is_line(meaning), f"method.domains.{name}", repr(meaning), "one line")
    _check_criteria("criteria", m.criteria, CRITERIA, COUNTS, need)
    _check_criteria("instruction_criteria", m.instruction_criteria, INSTRUCTION_CRITERIA, range(1, COUNTS.stop), need)
    need(len(m.domains) != 1, "method.domains", ", ".join(m.domains), "at least two")
    _check_language(m.language)


def _check_criteria(name: str, own: dict[str, str], paper: tuple[str, ...], counts: range, need: Need) -> None:
    """Refuse criteria that cannot be columns beside a review's, or that Reviewers are told nothing of.

    Args:
        name: of the setting.
        paper: criteria that there are words for.
        counts: how many there may be.
    """
    key = f"method.{name}"
    for criterion, meaning in own.items():
        need(
            re.fullmatch(r"[a-z][a-z0-9_]{0,23}", criterion) is not None and criterion not in TAKEN,
            key,
            criterion,
            f"names of {_LETTERS}, at most 24, none of {', '.join(TAKEN)}",
        )
        told = _is_line(meaning) and (bool(meaning.strip()) or (not meaning and criterion in paper))
        need(told, f"{key}.{criterion}", repr(meaning), "one line that says what is right")
    need(
        not own or len(own) in counts,
        key,
        ", ".join(own),
        f"{counts[0]} to {counts[-1]} of them: they are all that is asked (the paper's: {', '.join(paper)}); on the"
        f" command line {key}={{}} before them takes away the preset's",
    )


def _check_language(language: str) -> None:
    """Refuse what would be asked for and is no language: a slip would stand in every prompt."""
    if language in ("auto", "any"):
        return
    from gra_hpc.text.languages import NAMES, OTHER, meant

    if language in NAMES.values():
        return
    name = language.removeprefix(OTHER).strip()
    if not language.startswith(OTHER):
        own = meant(language)
        near = f"; did you mean {own}?" if own else nearest(name.title(), ["auto", "any", *NAMES.values()])
        raise ConfigError(
            f"method.language={language!r}: not the English name of a language{near}",
            f"auto, any or a name like German; for one that is not known here: '{OTHER} {name or 'NAME'}'",
        )
    if not name or not _is_line(name) or len(name) > 40:
        raise ConfigError(f"method.language={language!r}: expected a name of at most 40 characters", f"'{OTHER} NAME'")


def _is_line(text: str) -> bool:
    return len(text) <= 200 and text.isprintable()


def _check_fixed(m: MethodConfig, members: list[str], need: Need) -> None:
    """Refuse seats that are given to nobody, or to the wrong ones."""
    if m.policy is Policy.fixed:
        for key, names in (
            ("generator", [m.fixed.generator]),
            ("reviewers", m.fixed.reviewers),
            ("adjudicator", [m.fixed.adjudicator]),
        ):
            need(bool(names) and set(names) <= set(members), f"method.fixed.{key}", names, f"of {', '.join(members)}")
        seats = [m.fixed.generator, *m.fixed.reviewers, m.fixed.adjudicator]
        need(
            len(set(seats)) == len(seats),
            "method.fixed",
            seats,
            "another member in every seat (one member in all of them: method.policy=single)",
        )
    if m.policy is Policy.single and m.fixed.generator:
        need(m.fixed.generator in members, "method.fixed.generator", m.fixed.generator, f"of {', '.join(members)}")
