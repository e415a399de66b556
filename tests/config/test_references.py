"""What a value may refer to: another key, and a listed variable in a site's paths; never the environment's secrets."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gra_hpc.config import presets
from gra_hpc.config.references import VARIABLES, escaped, expanded, refuse_resolvers
from gra_hpc.config.site import SiteConfig
from gra_hpc.errors import ConfigError
from gra_hpc.evaluation.config import compose as compose_evaluation
from gra_hpc.release.manifest import public_config, write_run_config
from gra_hpc.run.engines import local_directory
from gra_hpc.training.config import compose as compose_finetuning

SECRET = "hf_S3cretS3cretS3cret"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HF_TOKEN}",
        "${ oc.env : HF_TOKEN }",
        "a ${oc.env:HF_TOKEN,none} b",
        "${oc.decode:'${oc.env:HF_TOKEN}'}",
        "${oc.select:nothing,${oc.env:HF_TOKEN}}",
        "${${seeds.licence}:HF_TOKEN}",
        "${oc.${seeds.name}:HF_TOKEN}",
        "\\\\${oc.env:HF_TOKEN}",
        "$${oc.env:HF_TOKEN}",
    ],
)
def test_no_resolver_reads_the_environment(text: str) -> None:
    for data in ({"a": {"b": text}}, {"a": ["x", {"b": text}]}):
        with pytest.raises(ConfigError, match=r"may name another key") as e:
            refuse_resolvers(data, "f.yaml")
        assert "f.yaml: a" in str(e.value)


def test_no_way_in_takes_a_resolver(tmp_path: Path) -> None:
    """Neither the command line nor files, in texts, lists and maps, of any kind of job."""
    text = "'${oc.env:HF_TOKEN}'"
    for word in (
        f"release.name={text}",
        f"engine.env={{A: {text}}}",
        f"site.setup=[x, {text}]",
        f"models.smollm2.engine_args={{a: [{text}]}}",
    ):
        with pytest.raises(ConfigError, match=r"may name another key"):
            presets.compose("demo", [word])
    (tmp_path / "p.yaml").write_text(f"include: [demo]\nrelease: {{name: {text}}}\n")
    (tmp_path / "s.yaml").write_text(f"site: {{account: {text}}}\n")
    with pytest.raises(ConfigError, match=r"p\.yaml: release\.name=.*may name another key"):
        presets.compose(str(tmp_path / "p.yaml"))
    with pytest.raises(ConfigError, match=r"s\.yaml: site\.account=.*may name another key"):
        presets.load(tmp_path / "s.yaml")
    for compose in (compose_finetuning, compose_evaluation):
        with pytest.raises(ConfigError, match=r"s\.yaml: site\.account=.*may name another key"):
            compose("mini", ["model.path=x"], str(tmp_path / "s.yaml"))
    with pytest.raises(ConfigError, match="may name another key"):
        presets.site(str(tmp_path / "s.yaml"))


def test_another_key_may_be_named() -> None:
    c = presets.compose("demo", ["release.name=${seeds.licence}-${method.rounds}", "seeds.licence=mit"])
    assert c.release.name == f"mit-{c.method.rounds}"


def test_a_text_with_a_dollar_and_a_brace_stays_text(tmp_path: Path) -> None:
    """Written into a saved configuration it is no reference when that is read: neither to a variable nor to a key."""
    texts = {
        "release.name": r"\${oc.env:HF_TOKEN}",
        "seeds.licence": r"a \${method.rounds} \${x",
        "committee.ada.persona": r"you write bash, like \${HOME:-/root}",
    }
    c = presets.compose("demo", [f"{key}={text}" for key, text in texts.items()])
    assert (c.release.name, c.seeds.licence) == ("${oc.env:HF_TOKEN}", "a ${method.rounds} ${x")
    (tmp_path / "run.yaml").write_text(presets.dump(c))
    assert presets.load(tmp_path / "run.yaml") == c
    assert public_config(c)["release"]["name"] == "${oc.env:HF_TOKEN}"
    write_run_config(c, tmp_path / "again.yaml")
    again = presets.compose(str(tmp_path / "again.yaml"))
    assert (again.release.name, again.seeds.licence) == (c.release.name, c.seeds.licence)
    assert SECRET not in (tmp_path / "run.yaml").read_text() + (tmp_path / "again.yaml").read_text()


def test_nothing_that_is_let_through_reaches_the_environment() -> None:
    """Texts put together at random from what references are made of: OmegaConf finds the secret in many of them."""

    @dataclass
    class Values:
        a: str = ""
        b: str = "oc.env"

    def resolved(text: str) -> str:
        try:
            return str(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Values), {"a": text})).a)  # type: ignore[union-attr]
        except OmegaConfBaseException:
            return ""

    pieces = [
        "$",
        "{",
        "}",
        "\\",
        "${",
        "oc.env:HF_TOKEN",
        "${b}",
        "${oc.env:HF_TOKEN}",
        ":",
        "HF_TOKEN",
        "b",
        "'",
        " ",
    ]
    draw, refused = random.Random(7), 0
    for _ in range(400):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 6)))
        found = SECRET in resolved(text)
        try:
            refuse_resolvers({"a": text}, "file")
            assert not found, text
        except ConfigError:
            refused += found
        assert "${" not in text or resolved(escaped(text)) == text
    assert refused > 20


def test_listed_variables_expand_in_a_sites_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("SLURM_TMPDIR", "/local/7")
    site = presets.compose("demo", ["site.scratch=$SCRATCH/x", "site.container=apptainer:$SCRATCH/i.sif"]).site
    assert (site.scratch, site.container) == ("/scratch/me/x", "apptainer:/scratch/me/i.sif")
    assert local_directory(SiteConfig(local_dir="$SLURM_TMPDIR/gra")) == Path("/local/7/gra")
    assert expanded("site.scratch", "${SCRATCH}/$STORE", {"SCRATCH": "/s"}) == "/s/$STORE"  # not set here


@pytest.mark.parametrize("key", ["scratch", "container", "python", "local_dir"])
@pytest.mark.parametrize("value", ["/x/$HF_TOKEN", "$AWS_SECRET_ACCESS_KEY", "$SCRATCHES", "$SLURM_JWT"])
def test_no_other_variable_expands(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    """Set or not; `local_dir` is refused on the login node already, and on the compute node."""
    for name in ("AWS_SECRET_ACCESS_KEY", "SCRATCHES", "SCRATCH"):
        monkeypatch.setenv(name, SECRET)
    value = f"apptainer:{value}" if key == "container" else value
    with pytest.raises(ConfigError, match=rf"site\.{key}=.* is not among the variables that expand here") as e:
        presets.compose("demo", [f"site.{key}={value}"])
    assert SECRET not in str(e.value)
    if key == "local_dir":
        with pytest.raises(ConfigError, match="is not among the variables"):
            local_directory(SiteConfig(local_dir=value))


def test_the_list_names_no_secret() -> None:
    words = ("TOKEN", "SECRET", "PASS", "KEY", "CRED", "JWT", "AUTH", "PROXY", "PAT")
    assert not [name for name in VARIABLES if any(word in name for word in words)]
