"""Chat templates that come with the package, for base models that have none."""

from __future__ import annotations

from pathlib import Path

from gra_hpc.config.fields import Need

ALPACA = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n### Response:\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- message['content'] + eos_token + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
"""
"""Plain headings and the model's own end-of-text token: no token is new, so no embedding starts untrained. The response
header follows the user's turn at once, so it is part of the prompt with and without `add_generation_prompt`."""

BUILT_IN = {"alpaca": ALPACA}


def check_template(name: str, need: Need) -> None:
    """Refuse a setting `model.chat_template` that names neither a built-in template nor a file; empty is the model's.

    Raises:
        ConfigError: what was expected.
    """
    known = not name or name in BUILT_IN or Path(name).is_file()
    need(known, "model.chat_template", name, f"a Jinja file, or {' or '.join(BUILT_IN)}")


def text(name: str) -> str:
    """The Jinja text of a built-in template, or of a file."""
    return BUILT_IN.get(name) or Path(name).read_text(encoding="utf-8")
