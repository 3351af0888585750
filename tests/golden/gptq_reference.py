"""GPTQ in float64 and plain Python, and the fixture that records what it does.

Written from the papers' formulas (optimal brain quantization, arXiv 2208.11580, with the fixed order
of arXiv 2210.17323) and shares neither a line nor a shape with the engine: the inverse of the whole
Hessian, from which Gaussian elimination takes one column after the other. No Cholesky factor, no
batches.

    python3 tests/golden/gptq_reference.py > tests/fixtures/gptq/reference.json

Inputs are stored in units of 1/8, weights of 2^-20 and clip factors of 1/64, so that float32 holds
them, and X^T X, exactly.
"""

import json
import math
import random
import struct

TIE = 1e-6


def half(value):
    return struct.unpack("<e", struct.pack("<e", value))[0]


def distance_to_tie(value):
    """From the nearest number that lies halfway between two whole ones."""
    return abs(value - math.floor(value) - 0.5)


def inverse(matrix):
    """Gauss and Jordan, with row pivots."""
    size = len(matrix)
    rows = [list(row) + [float(i == j) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        factor = rows[i][i]
        rows[i] = [value / factor for value in rows[i]]
        for r in range(size):
            factor = rows[r][i]
            if r != i and factor != 0:
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i])]
    return [row[size:] for row in rows]


def group_range(weights, bits, symmetric, low_factor, high_factor):
    """(scale, zero, distance of either from a tie of its own rounding) of one row's group."""
    low = min(0.0, min(weights)) * low_factor
    high = max(0.0, max(weights)) * high_factor
    if symmetric:
        exact = (max(-low, high) or 1.0) / (2 ** (bits - 1) - 1)
    else:
        if low == 0 and high == 0:
            low, high = -1.0, 1.0
        exact = (high - low) / (2**bits - 1)
    scale = half(exact)
    step = 2.0 ** (math.frexp(exact)[1] - 11)
    tie = distance_to_tie(exact / step)
    if symmetric:
        return scale, 2 ** (bits - 1), tie
    zero = min(max(round(-low / scale), 1), 2**bits - 1)
    return scale, zero, min(tie, distance_to_tie(-low / scale))


def visiting_order(diagonal, size, by_activation):
    groups = [list(range(start, start + size)) for start in range(0, len(diagonal), size)]
    if by_activation:
        groups = [sorted(group, key=lambda column: -diagonal[column]) for group in groups]
        groups.sort(key=lambda group: (-sum(diagonal[column] for column in group), min(group)))
    return [column for group in groups for column in group]


def damp(hessian, share):
    diagonal = [row[i] for i, row in enumerate(hessian)]
    live = [value for value in diagonal if value != 0]
    mean = sum(live) / len(live)
    damped = [list(row) for row in hessian]
    for i, value in enumerate(diagonal):
        damped[i][i] = (value or mean) + share * mean
    return damped


def quantize(weight, hessian, inverted, run):
    width = len(hessian)
    size = width if run["group_size"] < 0 else run["group_size"]
    bits, symmetric = run["bits"], run["symmetric"]
    diagonal = [row[i] for i, row in enumerate(hessian)]
    order = visiting_order(diagonal, size, run["order_by_activation"])

    def clip(side, row, group):
        return run["clip"][side][row][group] / 64 if "clip" in run else 1.0

    rows = [list(row) for row in weight]
    remaining = list(inverted)
    scales = [[None] * (width // size) for _ in rows]
    zeros = [[None] * (width // size) for _ in rows]
    codes = [[None] * width for _ in rows]
    compared = [width] * len(rows)
    for visit, column in enumerate(order):
        group = column // size
        for r, row in enumerate(rows):
            tie = 0.5
            if visit % size == 0:
                source = weight[r] if run["before_update"] else row
                scales[r][group], zeros[r][group], tie = group_range(
                    source[group * size : (group + 1) * size], bits, symmetric,
                    clip("low", r, group), clip("high", r, group))
            scale, zero = scales[r][group], zeros[r][group]
            ratio = row[column] / scale
            if min(tie, distance_to_tie(ratio)) < TIE:
                compared[r] = min(compared[r], visit)
            code = min(max(round(ratio) + zero, 0), 2**bits - 1)
            codes[r][column] = code
            error = (row[column] - scale * (code - zero)) / remaining[column][column]
            for later in order[visit + 1 :]:
                row[later] -= error * remaining[column][later]
        # The inverse without this column.
        pivot = remaining[column]
        for later in order[visit + 1 :]:
            factor = remaining[later][column] / pivot[column]
            if factor != 0:
                remaining[later] = [a - factor * b for a, b in zip(remaining[later], pivot)]

    error = 0.0
    for r, row in enumerate(weight):
        off = [row[i] - scales[r][i // size] * (codes[r][i] - zeros[r][i // size])
               for i in range(width)]
        error += sum(off[i] * sum(map(float.__mul__, hessian[i], off)) for i in range(width))
    return {**run, "order": order, "codes": codes, "scales": scales, "zeros": zeros,
            "compared": compared, "error": error}


def correlated_inputs(rng, samples, width, dead=()):
    """A few hidden causes, channels of different strength; column 5 is column 2 turned over."""
    mixing = [[rng.gauss(0, 1) for _ in range(width)] for _ in range(6)]
    strength = [math.exp(rng.gauss(0, 0.7)) for _ in range(width)]
    inputs = []
    for _ in range(samples):
        cause = [rng.gauss(0, 1) for _ in mixing]
        row = [round(8 * strength[i] * (sum(c * m[i] for c, m in zip(cause, mixing)) / 2
                                        + rng.gauss(0, 0.5))) for i in range(width)]
        row[5] = -row[2]
        inputs.append([0 if i in dead else value for i, value in enumerate(row)])
    return inputs


def problem(rng, name, rows, inputs, grids, damping=0.01, clipped=False):
    # Larger to the right, so that a group's range often hangs on the columns visited last.
    width = len(inputs[0])
    weight = [[round(2**20 * rng.gauss(0, 0.2 + 0.3 * i / width)) for i in range(width)]
              for _ in range(rows)]
    columns = [[value / 8 for value in column] for column in zip(*inputs)]
    hessian = [[sum(map(float.__mul__, a, b)) for b in columns] for a in columns]
    values = [[w / 2**20 for w in row] for row in weight]
    inverted = inverse(damp(hessian, damping))
    runs = []
    for bits, group_size, symmetric in grids:
        for before_update in (False, True):
            for order_by_activation in (False, True):
                run = {"bits": bits, "group_size": group_size, "symmetric": symmetric,
                       "damping": damping, "before_update": before_update,
                       "order_by_activation": order_by_activation}
                if clipped:
                    groups = 1 if group_size < 0 else len(columns) // group_size
                    run["clip"] = {side: [[rng.randint(45, 64) for _ in range(groups)]
                                          for _ in range(rows)] for side in ("low", "high")}
                runs.append(quantize(values, hessian, inverted, run))
    return {"name": name, "inputs": inputs, "weight": weight, "runs": runs}


def main():
    rng = random.Random(20230323)
    dead = (0, 7, 8, 19, 31)
    problems = [
        problem(rng, "correlated", 12, correlated_inputs(rng, 48, 32),
                [(3, 8, False), (4, 16, True), (2, -1, False)]),
        problem(rng, "clipped", 12, correlated_inputs(rng, 48, 32), [(3, 8, False), (4, 16, True)],
                clipped=True),
        problem(rng, "singular", 12, correlated_inputs(rng, 20, 32, dead), [(4, 8, False)],
                damping=0.05),
        problem(rng, "wide", 3, correlated_inputs(rng, 24, 288),
                [(4, 32, False), (3, 96, True), (2, 144, False)]),
    ]
    print("{" + '"made_by": "tests/golden/gptq_reference.py", "problems": [')
    print(",\n".join(json.dumps(made, separators=(",", ":")) for made in problems) + "]}")


if __name__ == "__main__":
    main()
