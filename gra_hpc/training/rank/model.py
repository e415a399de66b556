"""The model a rank trains: device, attention, tokenizer and weights."""

from __future__ import annotations

import os
from typing import Any

from gra_hpc.errors import ConfigError
from gra_hpc.models.trained import trained_model
from gra_hpc.training import templates
from gra_hpc.training.config import Attention, Device, Dtype, FinetuneConfig


def choose_device(config: FinetuneConfig) -> str:
    """cuda or cpu; sets what DeepSpeed reads from the environment.

    Raises:
        ConfigError: GPUs are asked for and there are none, or bfloat16 training on a CPU.
    """
    import torch

    wanted = config.launch.device
    device = "cuda" if wanted is not Device.cpu and torch.cuda.is_available() else "cpu"
    if wanted is Device.cuda and device == "cpu":
        raise ConfigError("launch.device=cuda: PyTorch sees no GPU on this node", "gra doctor SITE --job")
    if wanted is Device.auto and device == "cpu" and config.site.gpus_per_node:
        raise ConfigError(
            f"site.gpus_per_node={config.site.gpus_per_node}, but PyTorch sees no GPU on this node",
            "launch.device=cpu, or gra doctor SITE --job",
        )
    if device == "cpu":
        # Without it DeepSpeed guesses by what is installed. With it, it talks through gloo (no oneCCL is needed).
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return device


def attention(config: FinetuneConfig, device: str) -> str:
    """Transformers' name of the attention to use."""
    import importlib.util

    wanted = config.model.attention
    if wanted is not Attention.auto:
        return wanted.value
    fits = device == "cuda" and config.model.dtype is Dtype.bfloat16
    return "flash_attention_2" if fits and importlib.util.find_spec("flash_attn") else "sdpa"


def model_path(config: FinetuneConfig) -> str:
    """The directory of the model."""
    m = config.model
    return str(trained_model(m.path, m.revision, config.site.scratch, m.trust_remote_code))


def load_tokenizer(config: FinetuneConfig) -> Any:
    """The model's tokenizer, with the chat template that the configuration names."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path(config), trust_remote_code=config.model.trust_remote_code)
    if config.model.chat_template:
        tokenizer.chat_template = templates.text(config.model.chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(config: FinetuneConfig, device: str) -> Any:
    """The model in the numbers it is trained in, on the host: DeepSpeed takes it to the devices."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    m = config.model
    common = {
        "dtype": torch.bfloat16 if m.dtype is Dtype.bfloat16 else torch.float32,
        "attn_implementation": attention(config, device),
        "trust_remote_code": m.trust_remote_code,
    }
    if m.random_weights:
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path(config)), **common)
    return AutoModelForCausalLM.from_pretrained(model_path(config), **common)
