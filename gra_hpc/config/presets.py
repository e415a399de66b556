"""From YAML files and `key=value` words to a checked `RunConfig`, and back to text.

A preset may name others in `include:`; they are merged first, in order. A name is looked up as a path, then in
`./configs`, then in the configs that come with the package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException

from gra_hpc.config.directories import YAML, config_dirs, near_file, no_preset, package_dirs
from gra_hpc.config.fields import expecting
from gra_hpc.config.flow_sections import config_of
from gra_hpc.config.known_keys import check_keys
from gra_hpc.config.references import escaped, expanded, refuse_resolvers
from gra_hpc.config.rules import check, check_bounds
from gra_hpc.config.settings import MemberConfig, ReleaseConfig, RunConfig, SeedsConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.config.typed_yaml import hint_of, parsed, parts_of, types_of
from gra_hpc.errors import ConfigError, nearest
from gra_hpc.permissions import own_bytes, refuse_in_other_hands
from gra_hpc.storage import read_regular
from gra_hpc.terminal import word

C = TypeVar("C")

SEEDS, FLOW = "seeds.path=", "method.flow="
OF_ITS_SEEDS = ("name", "split", "revision", "licence", "fields")
"""Settings that tell of the data at `seeds.path`, beside the rules for records."""


def find(name: str, folder: str | None = None) -> Path:
    """The YAML file a preset name stands for.

    Args:
        folder: of those that are named where it is not there, as for `no_preset`.

    Raises:
        ConfigError: with the nearest existing names.
    """
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return Path(name)
    for directory in config_dirs():
        candidate = directory / f"{name.removesuffix('.yaml')}.yaml"
        if candidate.is_file():
            return candidate
    raise no_preset(name, folder)


def _text(path: Path, own: bool = False) -> str:
    try:
        return own_bytes(path, "begin one of your own").decode() if own else read_regular(path).decode()
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: byte {e.start} is not UTF-8", "save it as UTF-8") from None


def _data(text: str, path: Path, kind: type = RunConfig) -> dict[str, Any]:
    try:
        data = parsed(text, kind)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({getattr(e, 'problem', None) or e})") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines", "gra config show  (explains every key)")
    return data


def _layers(path: Path, kind: type = RunConfig, seen: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: includes itself", "take its name out of `include:`")
    if not any(path.resolve().is_relative_to(d.resolve()) for d in package_dirs()):
        refuse_in_other_hands(path)
    data = _data(_text(path), path, kind)
    includes = data.pop("include", [])
    if not isinstance(includes, list):
        raise ConfigError(f"{path}: include: expected a list of preset names", f"include: [{includes}]")
    for name in includes:
        yield from _layers(find(str(name)), kind, (*seen, path.resolve()))
    yield path, data


def compose(preset: str, overrides: Sequence[str] = (), site: str = "") -> RunConfig:
    """The checked configuration of a preset with overrides.

    Args:
        preset: preset name or YAML file.
        overrides: words `key=value`; values are YAML (`method.reviewers=2`, `seeds.path=my.jsonl`).
        site: name or file of a site preset, merged after the preset.

    Raises:
        ConfigError: unknown key (with the nearest valid one), wrong type, impossible value.
    """

    def read(kind: type) -> list[tuple[Path, dict[str, Any]]]:
        return [*_layers(find(preset, ""), kind), *(_layers(find_site(site), kind) if site else ())]

    layers = read(RunConfig)
    kind = _kind((data for _, data in layers), overrides)
    if kind is not RunConfig:  # with the types of its flow's section
        layers = read(kind)
    cfg = OmegaConf.structured(kind)
    measured, lent = "", False  # whether the release's licence was stated with the seeds
    for path, data in layers:
        seeds, release = _section(data, "seeds"), _section(data, "release")
        if "path" in seeds:
            _other_seeds(cfg, seeds["path"], lent)
        lent = "licence" in release if "path" in seeds else lent and "licence" not in release
        cfg = _merge(cfg, data, str(path), kind)
        if path.parent.name == "sites":
            measured = str(calibration_file(path)) if calibration_file(path).is_file() else ""
    if measured and not cfg.site.calibration:
        cfg.site.calibration = measured
    other = next((word for word in reversed(overrides) if word.startswith(SEEDS)), "")
    if other:
        _other_seeds(cfg, other.removeprefix(SEEDS), lent)
    return _finish(_typed(apply(cfg, overrides, kind)))


def _kind(layers: Iterable[dict[str, Any]], overrides: Sequence[str]) -> type[RunConfig]:
    """The configuration with the section of the flow that is named last.

    Raises:
        ConfigError: there is no such flow.
    """
    name = RunConfig().method.flow
    for data in layers:
        name = _section(data, "method").get("flow", name)
    for given in overrides:
        name = given.removeprefix(FLOW) if given.startswith(FLOW) else name
    return config_of(str(name))


def _section(data: dict[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _other_seeds(cfg: DictConfig, path: Any, lent: bool) -> None:
    """What a preset says of its own seeds, and with them of the licence of what is made, is not true of others."""
    if OmegaConf.is_missing(cfg.seeds, "path") or path == cfg.seeds.path:
        return
    for key in OF_ITS_SEEDS:
        cfg.seeds[key] = getattr(SeedsConfig(), key)
    if lent:
        cfg.release.licence = ReleaseConfig().licence


def calibration_file(site_file: Path) -> Path:
    """Where `gra calibrate` keeps what it measured on a site: beside the site's file."""
    return site_file.absolute().with_suffix(".calibration.json")


def compose_as(kind: type[C], folder: str, preset: str, overrides: Sequence[str] = (), site: str = "") -> C:
    """The configuration of another kind than a run's (`FinetuneConfig`, `EvaluateConfig`, ...); not checked yet.

    Args:
        kind: its dataclass; it has a field `site` where a site is given.
        folder: where in `configs/` its presets are; a preset may be named with or without it.
        preset, overrides, site: as for `compose`.

    Raises:
        ConfigError: unknown key (with the nearest valid one), wrong type, missing value.
    """
    inside = f"{folder}/{preset.removeprefix(folder + '/')}"
    known = any((d / f"{inside}.yaml").is_file() for d in config_dirs())
    cfg = OmegaConf.structured(kind)
    for path, data in _layers(find(inside if known else preset, folder), kind):
        cfg = _merge(cfg, data, str(path), kind)
    if site:
        for path, data in _layers(find_site(site)):
            cfg = _merge(cfg, {"site": data.get("site", {})}, str(path), kind)
    return cast(C, _with_site(_typed(apply(cfg, overrides, kind))))


def load_as(kind: type[C], path: Path, overrides: Sequence[str] = (), own: bool = False) -> C:
    """A saved configuration of that kind, with overrides.

    Args:
        own: it decides what runs: it must be this user's, and nobody else's to write.

    Raises:
        ConfigError: as `compose` does.
        OwnershipError: it is in other hands.
    """
    cfg = _merge(OmegaConf.structured(kind), _data(_text(path, own), path, kind), str(path), kind)
    return cast(C, _with_site(_typed(apply(cfg, overrides, kind))))


def site(name: str, expand: bool = False) -> SiteConfig:
    """The site settings of a site preset alone.

    Args:
        expand: replace environment variables, as `compose` does.

    Raises:
        ConfigError: no such preset, or a key or value in it.
    """
    cfg = OmegaConf.structured(RunConfig)
    for path, data in _layers(find_site(name)):
        cfg = _merge(cfg, data, str(path))
    result = cast(SiteConfig, _typed(cfg.site))
    check_bounds(result, expecting(f"mend {find_site(name)}"), "site")
    if expand:
        _expand(result)
    return result


def find_site(name: str) -> Path:
    """The YAML file of a site.

    Raises:
        ConfigError: with the nearest existing names.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return find(name, "sites")
    if name not in site_names():
        near = near_file(name, YAML) or nearest(name, site_names())
        raise ConfigError(
            f"site {name}: no such site{near} (there are {', '.join(site_names())}; looked in"
            f" {Path('configs', 'sites').absolute()}, and in gra's)",
            "gra site detect, or --site DIR/NAME.yaml",
        )
    return find(f"sites/{name}")


def site_names() -> list[str]:
    """Names of all sites."""
    return sorted({p.stem for d in config_dirs() for p in (d / "sites").glob("*.yaml")})


def load(path: Path, overrides: Sequence[str] = (), own: bool = False, last: str = "") -> RunConfig:
    """A saved configuration (`run.yaml`), with overrides.

    Args:
        own: it decides what runs: it must be this user's, and nobody else's to write.
        last: the last of the keys that all such files have, `section.key`: a file without it, or without the end of its
            last line, was cut off, and defaults are not meant.

    Raises:
        ConfigError: as `compose` does; or there is nothing in it, or not all.
        OwnershipError: it is in other hands.
    """
    back = f"bring it back, or gra plan {word(path.parent)}-2 --preset, with the one that it was planned by"
    try:
        text = _text(path, own)
        data = _data(text, path)
    except ConfigError as e:
        raise ConfigError(e.what, e.then or back) from None
    section, _, key = last.partition(".")
    if not data or (last and (key not in (data.get(section) or ()) or not text.endswith("\n"))):
        raise ConfigError(
            f"{path}: {'cut off before the end of its last line, or of ' + last if data else 'empty'},"
            " expected the settings of a run",
            back,
        )
    kind = _kind([data], overrides)
    if kind is not RunConfig:
        data = _data(_text(path, own), path, kind)
    try:
        return _finish(_typed(apply(_merge(OmegaConf.structured(kind), data, str(path), kind), overrides, kind)))
    except ConfigError as e:
        if overrides:
            load(path, own=own)  # says that it is the file, or it is one of these words
        if overrides or str(path) in e.what:
            raise
        raise ConfigError(f"{path}: {e.what}", f"bring the file back, or mend it: {e.then}") from None


def apply(cfg: DictConfig, overrides: Sequence[str], kind: type = RunConfig) -> DictConfig:
    """Merge `key=value` words."""
    for given in overrides:
        key, eq, value = given.partition("=")
        if not eq or not key:
            raise ConfigError(
                f"{given}: expected key=value", "for example: gra plan runs/x --preset demo method.reviewers=2"
            )
        parts = parts_of(kind, key, cfg)
        data: Any
        try:
            data = parsed(value, hint_of(kind, parts)) if value else ""
        except yaml.YAMLError:
            data = value
        for part in reversed(parts):
            data = {part: data}
        cfg = _merge(cfg, data, "command line", kind)
    return cfg


def _merge(cfg: DictConfig, data: dict[str, Any], source: str, kind: type = RunConfig) -> DictConfig:
    check_keys(kind, data, "", source, kind)
    refuse_resolvers(data, source)
    _empty(cfg, kind, data)
    for key, hint in types_of(kind).items():
        given, args = data.get(key), get_args(hint)
        if isinstance(given, dict) and len(args) == 2 and dataclasses.is_dataclass(args[1]):
            for name in [n for n, entry in given.items() if entry is None]:
                cfg[key].pop(name, None)  # `null` takes away what an included preset has
            data = data | {key: {n: entry for n, entry in given.items() if entry is not None}}
    try:
        return cast(DictConfig, OmegaConf.unsafe_merge(cfg, data))  # `cfg` is not used any more
    except OmegaConfBaseException as e:
        key = getattr(e, "full_key", None) or "?"
        reason = str(e).splitlines()[0][:300]
        raise ConfigError(f"{source}: {key}: {reason}", "gra config show  (explains every key)") from None


def _empty(cfg: Any, kind: Any, data: dict[str, Any]) -> None:
    """`{}` takes away what a map holds, wherever it is; merging it would change nothing."""
    for key, hint in types_of(kind).items():
        given, args = data.get(key), get_args(hint)
        if not isinstance(given, dict) or cfg[key] is None:
            continue
        if dataclasses.is_dataclass(hint):
            _empty(cfg[key], hint, given)
        elif not given:
            for name in list(cfg[key]):
                cfg[key].pop(name)
        elif len(args) == 2 and dataclasses.is_dataclass(args[1]):
            for name, entry in given.items():
                if isinstance(entry, dict) and name in cfg[key]:
                    _empty(cfg[key][name], args[1], entry)


def _typed(cfg: DictConfig) -> Any:
    """The dataclass that a config stands for."""
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as e:
        key = getattr(e, "full_key", None) or "?"
        if isinstance(e, InterpolationResolutionError | GrammarParseError):
            raise ConfigError(
                f"{key}: ${{...}} means another setting here, and there is none of that name",
                "write $NAME, without braces, for a variable of the shell",
            ) from None
        raise ConfigError(f"{key}: a value is required", f"give it as {key}=...") from None


def _with_site(config: Any) -> Any:
    """The same, with its site's paths as they are here."""
    if hasattr(config, "site"):
        _expand(config.site)
    return config


def _finish(typed: Any) -> RunConfig:
    result = cast(RunConfig, _with_site(typed))
    if not result.committee:
        result.committee = {name: MemberConfig(model=name) for name in result.models}
    check(result)
    seated = {m.model for m in result.committee.values()}
    result.models = {name: model for name, model in result.models.items() if name in seated}
    return result


def _expand(site: SiteConfig) -> None:
    """Variables in a site's paths (`references.VARIABLES`), of the login node; those in `local_dir` are the compute
    node's.

    Raises:
        ConfigError: a variable that is not set, or none of those.
    """
    expanded("site.local_dir", site.local_dir)
    for key in ("scratch", "container", "python"):
        value = getattr(site, key)
        path = expanded(f"site.{key}", value)
        if "$" in path:
            raise ConfigError(f"site.{key}={value}: this environment variable is not set here", f"site.{key}=/the/path")
        setattr(site, key, path)


def dump(config: Any) -> str:
    """The configuration as YAML, as saved in `run.yaml`."""
    return OmegaConf.to_yaml(OmegaConf.structured(escaped(config)))
