"""The recipes that tests/bench/quality compares; what a row leaves out is off, or a default."""

# BALANCED's training, for what is compared with it.
_SHORT = {"objective": "BLOCK_MSE", "steps": 120, "batch_size": 4, "held_back_fraction": 0.0625,
          "end_to_end_steps": 500, "redrawn_fraction": 0.25}
# BEST's.
_LONG = _SHORT | {"steps": 250, "batch_size": 8, "end_to_end_steps": 1000,
                  "redrawn_fraction": 0.5}

METHODS = {
    "RTN": {"rounding": {"nearest": {}}},
    "AWQ": {"transform": {"awq": {}}},
    "AWQ+CLIP": {"transform": {"awq": {}}, "clipping": {"search": {}}},
    "GPTQ": {"rounding": {"gptq": {"order_by_activation": True}}},
    "GPTQ-BEFORE": {"rounding": {"gptq": {"order_by_activation": True,
                                          "group_range": "BEFORE_UPDATE"}}},
    # The paper's form (arXiv 2310.10944).
    "TEQ": {"transform": {"teq": {"objective": "LM_LOSS", "gradient": "STRAIGHT_THROUGH",
                                  "init": "ONES"}}},
    "TEQ-KL": {"transform": {"teq": {"objective": "KL", "gradient": "FULL", "init": "AWQ"}}},
    # All scales stay 1, with BALANCED's and BEST's training.
    "LEARNED": {"schedule": _SHORT, "clipping": {"learned": {}},
                "rounding": {"learned": {"learning_rate": 0.014}}},
    "LEARNED-LONG": {"schedule": _LONG, "clipping": {"learned": {}},
                     "rounding": {"learned": {"learning_rate": 0.01}}},
    "FAST": {"preset": "FAST"},
    "BALANCED": {"preset": "BALANCED"},
    "BEST": {"preset": "BEST"},
}

# Every gap and every time is measured against this one.
UNIT = "RTN"

# Compared with each other where both were run: (ours, theirs).
PAIRS = (
    ("FAST", "GPTQ"),
    ("BALANCED", "GPTQ"),
    ("BALANCED", "LEARNED"),
    ("BEST", "GPTQ"),
    ("BEST", "LEARNED-LONG"),
    ("BEST", "BALANCED"),
    ("LEARNED", "GPTQ"),
    ("TEQ-KL", "TEQ"),
)
