"""Special tokens of chat templates, written out in a text: a tokenizer may take them for its own, and end or begin a
message in the middle of a prompt. No seed and no generated text may hold any."""

from __future__ import annotations

import re

CONTROL_TOKENS = re.compile(
    r"<\|[A-Za-z][\w.\-]{0,60}\|>"  # <|im_start|>, <|eot_id|>, <|endoftext|>, <|start_header_id|>, <|user|>
    r"|<｜[^<>｜\s]{1,60}｜>"  # the same with the wide bars of DeepSeek
    r"|\[/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT)\]|\[gMASK\]"
    r"|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos)>|<end_of_utterance>|<unused\d+>"
)
