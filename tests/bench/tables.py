"""The tables that tests/bench/quality prints, and a table as such."""

_LONGEST_ERROR = 150
_TEXT_COLUMNS = ("model", "grid", "method", "from", "within 1 %", "figure", "finding")


def _number(value, digits, deviation=None):
    if value is None:
        return "-"
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.0
    return text if deviation is None else f"{text}±{deviation:.{digits}f}"


def _percent(value, deviation=None):
    return _number(value and 100 * value, 1, deviation and 100 * deviation)


def table(head, rows):
    """Columns under their heads, text aligned left. The last cell of a row with fewer cells than
    there are columns is prose."""
    rows = list(rows)
    widths = [len(name) for name in head]
    for row in rows:
        columns = row if len(row) == len(head) else row[:-1]
        for i, cell in enumerate(columns):
            widths[i] = max(widths[i], len(cell))

    def line(cells):
        padded = [cell.ljust(width) if name in _TEXT_COLUMNS else cell.rjust(width)
                  for cell, width, name in zip(cells, widths, head)]
        if len(cells) < len(head):
            padded[-1] = cells[-1]
        return "  ".join(padded).rstrip()

    return [line(head), *map(line, rows)]


def _name(row):
    return row["model"] + (" rescaled" if row["rescaled"] else "")


def _grid(row):
    return f"W{row['bits']} g{row['group_size']}"


def _run(row):
    first = [_name(row), _grid(row), row["method"], str(row["seed"])]
    if "error" in row:
        return [*first, "error: " + " ".join(row["error"].split())[:_LONGEST_ERROR]]
    inputs = row["inputs"]
    return [*first, _number(row["float"], 3), _number(row["rtn"], 3), _number(row["quantized"], 3),
            _percent(row["closed"]), _percent(row.get("closed_error")), _number(row["kl"], 4),
            _percent(row["top1"]), _number(row["seconds"], 0), _number(row["fit_seconds"], 0),
            _number(row.get("times_unit"), 2),
            f"{int(row['peak_memory_bytes']['host']) / 2**20:.0f}",
            f"{inputs['calibration_samples']}x{inputs['calibration_sequence_length']}",
            str(row["tokens"])]


_RUN_HEAD = ["model", "grid", "method", "seed", "float", "RTN", "ours", "closed %", "+-", "KL",
             "top-1 %", "s", "fit s", "x RTN", "MiB", "calibration", "tokens"]


def _mean(row):
    return [_name(row), _grid(row), row["method"], str(len(row["seeds"])),
            _number(row["quantized"], 3, row["quantized_deviation"]),
            _percent(row["closed"], row["closed_deviation"]),
            _number(row["kl"], 4, row["kl_deviation"]),
            _percent(row["top1"], row["top1_deviation"]),
            _number(row["times_unit"], 2, row["times_unit_deviation"])]


_MEAN_HEAD = ["model", "grid", "method", "seeds", "ours", "closed %", "KL", "top-1 %", "x RTN"]


def _difference(row):
    return [_name(row), _grid(row), f"{row['ours']} - {row['theirs']}", str(len(row["seeds"])),
            f"{row['difference']:+.4f}", _number(row["error"], 4),
            "parts" if row["paired"] else "report", _number(row["deviation"], 4),
            f"{row['kl_difference']:+.5f}", "" if row["same_schedule"] else "(schedules differ)"]


_DIFFERENCE_HEAD = ["model", "grid", "method", "seeds", "perplexity", "+-", "from", "sd of seeds",
                    "KL", ""]


def _rescaling(row):
    return [row["model"], _grid(row), row["method"], str(row["seed"]), _number(row["plain"], 3),
            _number(row["rescaled"], 3), _number(row["ratio"], 4),
            "yes" if abs(row["ratio"] - 1) <= 0.01 else "no"]


_RESCALING_HEAD = ["model", "grid", "method", "seed", "unscaled", "rescaled", "ratio", "within 1 %"]


def text(document):
    """All tables of a finished document."""
    machine = document["machine"]
    load = [f"{machine[key][0]:.1f}" for key in ("load_average_at_begin", "load_average_at_end")]
    lines = [f"{machine['worker']} on {machine['cpu']}, {machine['cores']} cores; "
             f"threads {machine['threads'] or 'all'}, runs at once {machine['jobs']}, "
             f"load {load[0]} to {load[1]}"]
    for title, head, row, part in (
            ("runs", _RUN_HEAD, _run, "runs"),
            ("mean and standard deviation over seeds", _MEAN_HEAD, _mean, "means"),
            ("differences; below 0 the first is better", _DIFFERENCE_HEAD, _difference,
             "differences"),
            ("rescaled channels", _RESCALING_HEAD, _rescaling, "rescaled")):
        if document[part]:
            lines += ["", title, *table(head, map(row, document[part]))]
    return "\n".join(lines)
