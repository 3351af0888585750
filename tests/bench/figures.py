"""What tests/bench/quality concludes from reports; functions of values.

A report's standard errors are those of sums over the evaluation's windows, paired by window. They
therefore obey the arithmetic of variances, and the covariances that are needed follow from them.
"""

import math
import statistics


def gap_closed(float_ppl, rtn_ppl, quantized_ppl):
    """(RTN - quantized) / (RTN - float); None where plain rounding loses nothing."""
    gap = rtn_ppl - float_ppl
    return (rtn_ppl - quantized_ppl) / gap if gap > 0 else None


def gap_closed_error(share, gap, gain_error, gap_error, delta_error):
    """Standard error of gain / gap, to first order.

    The errors are of gain = RTN - quantized, gap = RTN - float and delta = quantized - float. As
    delta = gap - gain, 2 cov(gain, gap) = gain_error^2 + gap_error^2 - delta_error^2.
    """
    variance = ((1 - share) * gain_error**2 + share * (share - 1) * gap_error**2
                + share * delta_error**2)
    return math.sqrt(max(0.0, variance)) / gap


def paired_error(ours, theirs):
    """Standard error of ours - theirs over the parts of an evaluation text.

    Each argument is [(perplexity, tokens)] by part. A part's difference is that of the losses, each
    times its perplexity, as in the report's own errors; parts weigh by their tokens.
    """
    total = sum(tokens for _, tokens in ours)

    def contributions(parts):
        mean = sum(math.log(ppl) * tokens for ppl, tokens in parts) / total
        return [math.exp(mean) * math.log(ppl) for ppl, _ in parts]

    weights = [tokens / total for _, tokens in ours]
    differences = [a - b for a, b in zip(contributions(ours), contributions(theirs))]
    mean = sum(w * d for w, d in zip(weights, differences))
    count = len(differences)
    return math.sqrt(count / (count - 1)
                     * sum((w * (d - mean)) ** 2 for w, d in zip(weights, differences)))


def unpaired_error(ours, theirs):
    """The same where there are no parts: the two runs' errors against a model that both were
    compared with, as if independent; too large where both lose on the same windows."""
    return min(math.hypot(ours[error], theirs[error]) for error in ("delta_error", "gain_error"))


def mean_and_deviation(values):
    """Mean and sample standard deviation; None where a value is."""
    if any(value is None for value in values):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
