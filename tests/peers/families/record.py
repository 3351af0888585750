#!/usr/bin/env python3
"""Writes the fixtures of the model families, or checks that they are what they should be.

    python3 tests/peers/families/record.py tests/fixtures/families [--check] [case ...]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch

import experts
from cases import CASES, Case
from composite import decoder_config
from inventory import tensor_specs
from reference import logits
from weights import TensorSpec, fnv1a64, make_tensors, splitmix64

LENGTH = 48
POSITIONS = (0, 17, 33, LENGTH - 1)
TOLERANCE = 1e-5
ROUTER_MARGIN = 5e-3


def input_ids(case: Case, attempt: int) -> list[int]:
    """Token ids that depend on the case's name; another list for every attempt."""
    numbers = splitmix64(fnv1a64(f"{case.name} ids {attempt}"), LENGTH)
    return [int(number) % decoder_config(case.config)["vocab_size"] for number in numbers]


def compute(case: Case, specs: dict[str, TensorSpec]) -> tuple[list[int], torch.Tensor]:
    """Ids and their logits; ids for which every router's decisions are good ones to record."""
    tensors = make_tensors(specs)
    for attempt in range(1000):
        ids = input_ids(case, attempt)
        experts.routings.clear()
        result = logits(case.config, tensors, ids)
        if all(is_telling(routing) for routing in experts.routings):
            return ids, result
    raise ValueError(f"{case.name}: no ids with telling routing found")


def is_telling(routing: experts.Routing) -> bool:
    """No decision is a close one, and every expert serves a position that is recorded."""
    all_serve = bool(routing.chosen[list(POSITIONS)].any(0).all())
    return all_serve and routing.margin > ROUTER_MARGIN


def fixture(case: Case) -> dict:
    specs = tensor_specs(case.config, case.embedding, case.router)
    ids, result = compute(case, specs)
    return {
        "case": case.name,
        "what": case.what,
        "config": case.config,
        "tensors": {
            name: {"shape": list(s.shape), "mean": s.mean, "amplitude": s.amplitude}
            for name, s in specs.items()
        },
        "input_ids": ids,
        "logits": [
            {"position": p, "values": [float(f"{v:.7g}") for v in result[p].tolist()]}
            for p in POSITIONS
        ],
    }


def to_json(data: dict) -> str:
    """JSON with a line for each config key, tensor and position."""

    def lines(items: list[str], opening: str, closing: str) -> str:
        return opening + "\n  " + ",\n  ".join(items) + f"\n {closing}"

    def mapping(entries: dict) -> str:
        items = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items()]
        return lines(items, "{", "}")

    parts = {
        "case": json.dumps(data["case"]),
        "what": json.dumps(data["what"]),
        "config": mapping(data["config"]),
        "tensors": mapping(data["tensors"]),
        "input_ids": json.dumps(data["input_ids"]),
        "logits": lines([json.dumps(entry) for entry in data["logits"]], "[", "]"),
    }
    return "{\n " + ",\n ".join(f'"{key}": {text}' for key, text in parts.items()) + "\n}\n"


def difference(stored: dict, computed: dict) -> float:
    """Largest distance between two fixtures' logits; infinite if anything else differs."""
    keys = ("case", "what", "config", "tensors", "input_ids")
    if any(stored.get(key) != computed[key] for key in keys):
        return math.inf
    if [e["position"] for e in stored["logits"]] != [e["position"] for e in computed["logits"]]:
        return math.inf
    pairs = zip(stored["logits"], computed["logits"], strict=True)
    return max(abs(a - b) for s, c in pairs for a, b in zip(s["values"], c["values"], strict=True))


def check(path: Path, computed: dict) -> bool:
    distance = difference(json.loads(path.read_text()), computed) if path.exists() else math.inf
    if distance > TOLERANCE:
        print(f"{computed['case']}: differs by {distance:g}", file=sys.stderr)
    return distance <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("cases", nargs="*", help="names of cases; all if none is given")
    parser.add_argument("--check", action="store_true", help="compare with the stored files")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    intact = True
    for case in chosen:
        path = arguments.directory / f"{case.name}.json"
        computed = fixture(case)
        if arguments.check:
            intact = check(path, computed) and intact
        else:
            path.write_text(to_json(computed))
    print(f"{len(chosen)} cases {'checked' if arguments.check else 'written'}")
    return 0 if intact else 1


if __name__ == "__main__":
    sys.exit(main())
