"""Models of more than text: a decoder under text_config beside other parts, such as a vision tower.

Their logits of a text are those of the decoder alone.
"""

from __future__ import annotations

from typing import TypeVar

from defaults import Config
from weights import TensorSpec

PREFIX = "language_model."

Value = TypeVar("Value")


def decoder_config(config: Config) -> Config:
    """The config of what turns tokens into logits: text_config's, or the model's own."""
    return config.get("text_config", config)


def decoder_tensors(config: Config, tensors: dict[str, Value]) -> dict[str, Value]:
    """The decoder's tensors by the names that a checkpoint of its own would give them."""
    if "text_config" not in config:
        return tensors
    return {
        name.removeprefix(PREFIX): value
        for name, value in tensors.items()
        if name.startswith(PREFIX)
    }


def with_other_parts(specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """A decoder's tensors as part of a larger model. The tower has layers of its own, with linear
    layers that are called as the decoder's are, and a convolution."""
    whole = {PREFIX + name: spec for name, spec in specs.items()}
    layer = "vision_tower.vision_model.encoder.layers.0"
    others = {
        "vision_tower.vision_model.embeddings.patch_embedding.weight": (16, 3, 2, 2),
        f"{layer}.self_attn.q_proj.weight": (16, 16),
        f"{layer}.self_attn.q_proj.bias": (16,),
        f"{layer}.mlp.down_proj.weight": (16, 32),
        "multi_modal_projector.mm_input_projection_weight": (16, 32),
    }
    return whole | {name: TensorSpec(shape, 0, 0.25) for name, shape in others.items()}
