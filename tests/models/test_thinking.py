"""Whether a model thinks, from its chat template: switches and their defaults, marks written or looked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gra_hpc.config.settings import ModelConfig, Thinks
from gra_hpc.errors import EngineError
from gra_hpc.models.thinking import Thinking, thinking_of

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
QWEN3 = TURNS + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
DEEPSEEK_V3 = TURNS + "{% if thinking %}<think>{% else %}</think>{% endif %}"
R1 = TURNS + "<think>\n"
OLDER_R1 = TURNS.replace("m.content", "m.content.split('</think>')[-1]")
GPT_OSS = TURNS + "{# <|channel|>analysis<|message|> #}"
MAGISTRAL = "[SYSTEM]First draft your thinking: [THINK]...[/THINK]" + TURNS
PRINTS_EFFORT = (  # as gpt-oss
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    "Reasoning: {{ reasoning_effort }}\n" + GPT_OSS
)
CHOSEN_EFFORT = (  # as Mistral and others, which refuse what they do not know
    "{% set e = reasoning_effort | default('none') %}{% if e not in ['none', 'high'] %}{{ raise_exception('no') }}"
    "{% endif %}[MODEL_SETTINGS]{{ e }}[/MODEL_SETTINGS]{# [THINK] #}" + TURNS
)
SWITCH_AND_EFFORT = (
    DEEPSEEK_V3
    + "{% if thinking and thinking_effort == 'max' %}Think hard.{% elif thinking_effort == 'low' %}Be quick."
    "{% endif %}"
)
OPEN_THINKER = "Write <|begin_of_thought|>...<|end_of_thought|>" + TURNS


def of(
    tmp_path: Path, template: str, thinking: Thinks = Thinks.auto, effort: str | None = None, **engine_args: str
) -> Thinking | None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return thinking_of(
        tmp_path, ModelConfig(path=str(tmp_path), thinking=thinking, effort=effort, engine_args=engine_args)
    )


@pytest.mark.parametrize(
    ("template", "auto"),
    [
        (TURNS, None),
        (QWEN3, Thinking(True, "<think>", False, "deepseek_r1", {"enable_thinking": True})),
        (DEEPSEEK_V3, None),  # off by default
        (R1, Thinking(True, "<think>", True, "deepseek_r1")),
        (OLDER_R1, Thinking(True, "<think>", False, "deepseek_r1")),
        (GPT_OSS, Thinking(True, "<|channel|>", False, "openai_gptoss")),
        (MAGISTRAL, Thinking(True, "[THINK]", False, "mistral")),
        (OPEN_THINKER, Thinking(True, "<|begin_of_thought|>", False, "")),
        ("{{ broken", None),
    ],
)
def test_auto_is_what_the_template_does(tmp_path: Path, template: str, auto: Thinking | None) -> None:
    assert of(tmp_path, template) == auto
    assert Thinking.read(None if auto is None else json.loads(json.dumps(auto.digested))) == auto


@pytest.mark.parametrize(
    ("template", "effort", "switches", "opened"),
    [
        (PRINTS_EFFORT, "high", {"reasoning_effort": "high"}, False),
        (PRINTS_EFFORT, "medium", {"reasoning_effort": "medium"}, False),
        (CHOSEN_EFFORT, "high", {"reasoning_effort": "high"}, False),
        (SWITCH_AND_EFFORT, "max", {"thinking": True, "thinking_effort": "max"}, False),
        (SWITCH_AND_EFFORT, "low", {"thinking": True, "thinking_effort": "low"}, False),
    ],
)
def test_effort_is_set_by_the_templates_own_variable(
    tmp_path: Path, template: str, effort: str, switches: dict[str, str], opened: bool
) -> None:
    found = of(tmp_path, template, effort=effort)
    assert found is not None and (found.on, found.switches, found.opened) == (True, switches, opened)
    assert Thinking.read(json.loads(json.dumps(found.digested))) == found
    assert "effort" not in str(of(tmp_path, template)), "left out: nothing is set"


@pytest.mark.parametrize(
    ("template", "effort", "message"),
    [
        (TURNS, "low", "has no levels of thinking -> leave models.NAME.effort out"),
        (QWEN3, "high", "has no levels of thinking"),
        ("{# effort #}" + R1, "high", "has no levels of thinking"),
        (PRINTS_EFFORT, "xhigh", "knows low, medium or high -> models.NAME.effort=high"),
        (CHOSEN_EFFORT, "low", "knows high -> models.NAME.effort=high"),
        (SWITCH_AND_EFFORT, "high", "knows low or max -> models.NAME.effort=max"),
    ],
)
def test_an_effort_that_the_template_does_not_know_is_refused(
    tmp_path: Path, template: str, effort: str, message: str
) -> None:
    with pytest.raises(EngineError, match=re.escape(message)):
        of(tmp_path, template, effort=effort)


def test_effort_without_thoughts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="effort=low: of thoughts that thinking=off turns off"):
        of(tmp_path, SWITCH_AND_EFFORT, Thinks.off, effort="low")


def test_on_and_off(tmp_path: Path) -> None:
    assert of(tmp_path, QWEN3, Thinks.off) == Thinking(False, switches={"enable_thinking": False})
    on = of(tmp_path, DEEPSEEK_V3, Thinks.on)
    assert on == Thinking(True, "<think>", True, "deepseek_r1", {"thinking": True})
    assert of(tmp_path, OLDER_R1, Thinks.off) is None
    with pytest.raises(EngineError, match=r"opens a thought \(<think>\) and has no switch"):
        of(tmp_path, R1, Thinks.off)
    with pytest.raises(EngineError, match="neither a switch nor marks of thoughts"):
        of(tmp_path, TURNS, Thinks.on)
    named = of(tmp_path, TURNS, Thinks.on, reasoning_parser="step3")
    assert named == Thinking(True, "<think>", False, "step3")
