"""Reference implementation of decoder-only language models, in float64.

logits(config, tensors, ids) takes a config.json as a dict, the tensors by their names in a
Hugging Face checkpoint, and token ids; it returns logits [T, vocab] of one full forward
pass. Written from the published definitions of the families (see README.md), apart from
the engine, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

import classic
import gated
from composite import decoder_config, decoder_tensors
from defaults import Config, complete
from weights import Weights

torch.set_num_threads(1)

Family = Callable[[Config, Weights, torch.Tensor], torch.Tensor]

FAMILIES: dict[str, Family] = {
    "llama": gated.llama,
    "mistral": gated.mistral,
    "mixtral": gated.mixtral,
    "qwen2": gated.qwen2,
    "qwen3": gated.qwen3,
    "qwen2_moe": gated.qwen2_moe,
    "qwen3_moe": gated.qwen3_moe,
    "gemma": gated.gemma,
    "gemma2": gated.gemma2,
    "gemma3_text": gated.gemma3_text,
    "phi3": gated.phi3,
    "stablelm": gated.stablelm,
    "phi": classic.phi,
    "opt": classic.opt,
    "bloom": classic.bloom,
    "falcon": classic.falcon,
    "gpt_neox": classic.gpt_neox,
    "gpt2": classic.gpt2,
    "gptj": classic.gptj,
    "mpt": classic.mpt,
}


def logits(
    config: Config, tensors: dict[str, torch.Tensor], ids: Sequence[int]
) -> torch.Tensor:
    """Logits [T, vocab]; raises if a tensor of the checkpoint's decoder has no part in them."""
    weights = Weights(decoder_tensors(config, tensors))
    decoder = decoder_config(config)
    family = FAMILIES[decoder["model_type"]]
    with torch.no_grad():
        result = family(complete(decoder), weights, torch.tensor(list(ids)))
    if weights.unused():
        raise ValueError(f"tensors without a part in the result: {weights.unused()}")
    return result
