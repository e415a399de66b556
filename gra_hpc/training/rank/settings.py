"""DeepSpeed's configuration, as a dict."""

from __future__ import annotations

from typing import Any

from gra_hpc.training.config import Dtype, FinetuneConfig, Offload


def deepspeed_settings(config: FinetuneConfig) -> dict[str, Any]:
    """What `deepspeed.initialize` gets. Batch sizes, clipping and the schedule are the Trainer's ("auto")."""
    d = config.deepspeed
    zero: dict[str, Any] = {
        "stage": d.zero,
        "overlap_comm": d.zero < 3,
        "contiguous_gradients": True,
        "reduce_bucket_size": d.bucket_elements,
    }
    if d.zero < 3:
        zero |= {"reduce_scatter": True, "allgather_partitions": True, "allgather_bucket_size": d.bucket_elements}
    else:
        # each rank holds a part of every parameter: the finished model is gathered when it is saved
        zero |= {"stage3_gather_16bit_weights_on_model_save": True}
    if d.offload_optimizer is Offload.cpu:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if d.offload_parameters is Offload.cpu:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    settings: dict[str, Any] = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": config.model.dtype is Dtype.bfloat16},
        "zero_optimization": zero,
        # PyTorch's AdamW: DeepSpeed's own are compiled on the node when first used. It knows how to cut its states.
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
        "steps_per_print": 1_000_000_000,
    }
    return merged(settings, d.extra)


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` over `base`, also in nested dicts."""
    out = dict(base)
    for key, value in more.items():
        inner = out.get(key)
        out[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return out
