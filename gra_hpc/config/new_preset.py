"""`gra init`: a preset of one's own, as a commented YAML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from gra_hpc.config import presets
from gra_hpc.config.directories import config_dirs, near_file
from gra_hpc.config.settings import MergeConfig, MethodConfig
from gra_hpc.errors import ConfigError, nearest
from gra_hpc.terminal import word

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
NOT_ASKED = "other"


@dataclass(frozen=True)
class Question:
    """What a person is asked where a flag is missing."""

    name: str
    about: str
    default: str = ""


def pools() -> list[str]:
    """Names of the presets of models."""
    return sorted({p.stem for d in config_dirs() for p in (d / "models").glob("*.yaml")})


def questions() -> list[Question]:
    """What a preset is made of."""
    named = f"Models: a preset ({', '.join(pools())}), or Hub ids and directories with spaces between"
    sites = f"Where it runs: {', '.join(presets.site_names())}; gra site detect writes one for this cluster"
    return [
        Question("seeds", "Seeds: a file, a directory or a Hub dataset with instructions and responses"),
        Question("licence", "Their licence, for the release's card", NOT_ASKED),
        Question("models", f"{named}; three or more, for a committee."),
        Question("site", f"{sites}.", "local"),
    ]


def text(file: Path, seeds: str, models: Sequence[str], site: str, licence: str) -> str:
    """The preset. Paths are absolute: a job does not start where it was written.

    Args:
        file: where it will lie, for messages.
        seeds: a path that exists, or a Hub id.
        models: one preset of models, or Hub ids and directories.
        site: name or file; empty: local.
        licence: of the seeds; empty: not stated.

    Raises:
        ConfigError: seeds or models that are neither there nor an id, with what is near.
    """
    again = f"gra init {word(file)} --seeds FILE --model NAME --site NAME"
    pool = models[0] if len(models) == 1 and models[0] in pools() else ""
    if not seeds:
        raise ConfigError("--seeds: none are given", again)
    if not models:
        raise ConfigError(f"--model: none is given; presets: {', '.join(pools())}; or Hub ids", again)
    places = [_place(m, "--model", pools(), again) for m in models if not pool]
    where = site or "local"
    presets.find_site(where)
    included = [f"models/{pool}"] if pool else []
    included.append(where if where.endswith((".yaml", ".yml")) else f"sites/{where}")
    names = _names(places)
    own = "".join(f"  {name}: {{path: {_scalar(place)}}}\n" for name, place in zip(names, places, strict=True))
    seats = "".join(f"  {name}: {{model: {name}}}\n" for name in names)
    m, embed = MethodConfig(), MergeConfig().embed_model
    return f"""\
# Every key, its meaning and its default: gra config show --preset {word(file)}
# Before the first plan, where there is a network: gra fetch --preset {word(file)}  (models and the embedding model,
# and seeds and benchmarks that are on the Hub; jobs need none)
include: [{", ".join(included)}]

seeds:
  path: {_scalar(_place(seeds, "--seeds", (), again))}
  licence: {_scalar(licence or NOT_ASKED)}  # of the seeds, for the release's card
  # fields: {{instruction: question, response: answer}}  # columns of other names than the usual ones
  # limit: 100  # the first ones only: a first run is small

{_MODELS if pool else _OWN_MODELS}{own}
{_SEATS if pool else _COMMITTEE}{_FEW.get(len(names), "")}{seats}
method:
  samples_per_seed: {m.samples_per_seed}
  # target_accepted: 10000  # rows wanted of each round: with 2 rounds, 20000 in all. Rounds are then sized by what was
  #                         # accepted so far, and samples_per_seed is not read; launch.stop_at_target=true makes no
  #                         # more shards than it takes
  # rounds: 2  # the second draws its examples from the first, too
  reviewers: {m.reviewers}
  accept_mean: {m.accept_mean:g}  # of the Reviewers' scores, 1 to 10; these three are the paper's
  accept_sd: {m.accept_sd:g}  # more than this is a dispute, which the Adjudicator settles
  adjudicate_mean: {m.adjudicate_mean:g}

{_merge(_beside(places, embed), embed)}
#   decontamination: {{sources: [openai/gsm8k]}}  # benchmarks whose texts are kept out

release:
  licence: other  # of the released rows: seeds and models decide what it may be
"""


_MODELS = "# models: those of the preset above; `name: null` takes one away, another line adds one.\n"
_OWN_MODELS = """\
# Each is one entry; its engine, licence and context length may be set here too (licence, max_model_len, ...).
models:
"""
_SEATS = """\
# committee: without one, every model has a seat. A seat may have a persona or sampling of its own:
#   ada: {model: NAME, persona: You are a strict teacher., sampling: {temperature: 0.7}}
"""
_COMMITTEE = """\
# Generator, Reviewers and Adjudicator of a sample are drawn from these seats. Five are as in the paper.
committee:
"""


_FEW = {
    1: "# One seat writes, and judges its own writing: add two or more.\n",
    2: "# Two seats: one reviews what the other writes: nothing is disputed, nothing adjudicated. Add one or more.\n",
}


def _merge(beside: str, embed: str) -> str:
    """The section about duplicates: with an embedding model that is here, or what there is to choose."""
    if beside:
        return f"merge:\n  embed_model: {_scalar(beside)}  # finds semantic duplicates; lies beside the models"
    return (
        "# merge:\n"
        f"#   semantic: false  # no semantic duplicates are looked for, and no embedding model ({embed}) is needed"
    )


def _beside(places: Sequence[str], embed: str) -> str:
    """A directory beside a model's that is named as the embedding model is on the Hub; empty: there is none."""
    name = embed.rpartition("/")[2]
    near = (Path(place).parent / n for place in places if Path(place).is_absolute() for n in (name, name.lower()))
    return next((str(path) for path in near if (path / "config.json").is_file()), "")


def write(file: Path, preset: str) -> None:
    """Write it; an existing file stays.

    Raises:
        ConfigError: there is one, or it cannot be written.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{file}: expected a name that ends in .yaml", f"gra init {word(file.with_suffix('.yaml'))}")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(preset)
    except FileExistsError:
        raise ConfigError(f"{file}: exists", "choose another name, or open it") from None
    except OSError as e:
        raise ConfigError(f"{file}: {e.strerror}", "choose another place") from None


def _place(given: str, flag: str, known: Sequence[str], again: str) -> str:
    """An absolute path, or a Hub id."""
    found = next((p for d in (Path(), *config_dirs()) if (p := d / Path(given).expanduser()).exists()), None)
    if found:
        return str(found.absolute())
    if HUB_ID.fullmatch(given):
        return given
    raise ConfigError(
        f"{flag} {given}: no such file, preset or Hub id{near_file(given) or nearest(given, known)}", again
    )


def _names(places: Sequence[str]) -> list[str]:
    """Short names of models: the end of the path, told apart by a number."""
    names: list[str] = []
    for place in places:
        plain = re.sub(r"[^a-z0-9.-]+", "-", Path(place).name.lower()).strip("-.") or "model"
        count = sum(n == plain or n.startswith(f"{plain}-") for n in names)
        names.append(f"{plain}-{count + 1}" if count else plain)
    return names


def _scalar(value: str) -> str:
    """A text as YAML writes it on one line."""
    return yaml.safe_dump(value, width=float("inf")).removesuffix("\n...\n").strip()
