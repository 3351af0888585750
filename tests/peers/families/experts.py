"""Mixture-of-experts feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from defaults import Config
from layers import ACTIVATIONS, Activation, gated_mlp, linear
from weights import Weights

Tensor = torch.Tensor
Block = Callable[[int, Tensor, Weights], Tensor]


@dataclass(frozen=True)
class Routing:
    """A router's decisions: which experts [T, experts] it chose, and by what least distance
    in probability between the last one chosen and the first one left out."""

    chosen: Tensor
    margin: float


routings: list[Routing] = []
"""What the routers decided since the list was last cleared."""


def route(scores: Tensor, chosen: int, normalize: bool) -> Tensor:
    """[T, experts] weights: the softmax over all experts, kept for the best ones only."""
    probabilities = scores.softmax(-1)
    ranked = probabilities.sort(-1, descending=True).values
    is_chosen = probabilities >= ranked[:, chosen - 1 : chosen]
    margin = float((ranked[:, chosen - 1] - ranked[:, chosen]).min())
    routings.append(Routing(is_chosen, margin))
    kept = probabilities * is_chosen
    return kept / kept.sum(-1, keepdim=True) if normalize else kept


def mixture(x: Tensor, weights: Tensor, experts: list[Callable[[Tensor], Tensor]]) -> Tensor:
    return sum(weights[:, index : index + 1] * run(x) for index, run in enumerate(experts))


def mixtral_expert(x: Tensor, w: Weights, activation: Activation) -> Tensor:
    """w1 is the gate, w3 the up and w2 the down projection."""
    return linear(activation(linear(x, w, "w1")) * linear(x, w, "w3"), w, "w2")


def mixtral_experts(config: Config) -> Block:
    activation = ACTIVATIONS[config["hidden_act"]]

    def block(index: int, x: Tensor, layer: Weights) -> Tensor:
        w = layer.below("block_sparse_moe.")
        weights = route(linear(x, w, "gate"), config["num_experts_per_tok"], normalize=True)
        experts = [
            lambda rows, own=w.below(f"experts.{e}."): mixtral_expert(rows, own, activation)
            for e in range(config["num_local_experts"])
        ]
        return mixture(x, weights, experts)

    return block


def is_sparse(config: Config, index: int) -> bool:
    """Whether a layer of Qwen's mixtures has experts rather than one MLP."""
    if index in (config["mlp_only_layers"] or []):
        return False
    return config["num_experts"] > 0 and (index + 1) % config["decoder_sparse_step"] == 0


def qwen_experts(config: Config, shared: bool) -> Block:
    activation = ACTIVATIONS[config["hidden_act"]]

    def block(index: int, x: Tensor, layer: Weights) -> Tensor:
        w = layer.below("mlp.")
        scores = linear(x, w, "gate")
        weights = route(scores, config["num_experts_per_tok"], config["norm_topk_prob"])
        experts = [
            lambda rows, own=w.below(f"experts.{e}."): gated_mlp(rows, own, activation)
            for e in range(config["num_experts"])
        ]
        y = mixture(x, weights, experts)
        if shared:
            share = torch.sigmoid(linear(x, w, "shared_expert_gate"))
            y = y + share * gated_mlp(x, w.below("shared_expert."), activation)
        return y

    return block
