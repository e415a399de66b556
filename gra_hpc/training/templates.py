"""Chat templates that come with the package, for base models that have none."""

from __future__ import annotations

from pathlib import Path

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


def text(name: str) -> str:
    """The Jinja text of a built-in template, or of a file."""
    return BUILT_IN.get(name) or Path(name).read_text(encoding="utf-8")
