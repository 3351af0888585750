#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "proto/spec/validate.h"
#include "torch/types.h"

namespace teq::quant {

/// A weight matrix on its grid: w' = scale * (code - zero).
struct Quantized {
  torch::Tensor codes;   // [out, in], uint8
  torch::Tensor scales;  // [out, groups], float16
  torch::Tensor zeros;   // [out, groups], uint8, at least 1
  int bits = 4;
};

/// Factors of every group's range, which becomes [low * min(w, 0), high * max(w, 0)]. Undefined:
/// ones.
struct ClipFactors {
  torch::Tensor low;   // [out, groups], positive
  torch::Tensor high;  // the same
};

/// What clipping and learned rounding change about a layer's rounding.
struct Adjustment {
  ClipFactors clip;
  torch::Tensor offset;  // [out, in], added to w / scale before it is rounded; undefined: zeros
  // [out, groups], the scale that is published over the one that codes are chosen by; undefined:
  // ones
  torch::Tensor step_factor = {};
};

/// Columns that share a scale: the grid's group size, or all of a row.
[[nodiscard]] std::int64_t GroupSize(const LayerGrid& grid, std::int64_t in);

/// Rounds each weight to its nearest code. `weight`: float32 [out, in]; the group size divides
/// `in`.
///
/// Range of a group, FORMATS' min-max: lo = min(w, 0), hi = max(w, 0), each times its clip factor;
/// a group of zeros has lo = -1, hi = 1. Asymmetric: scale = (hi - lo) / (2^b - 1), zero =
/// round(-lo / scale), at least 1, because GPTQ's v1 layout stores zero - 1. Symmetric: scale =
/// max(-lo, hi) / (2^(b-1) - 1), zero = 2^(b-1). The scale is rounded to float16 first and
/// everything else follows from the rounded one. Rounding is half to even, and codes outside the
/// range are clamped to it. A step factor multiplies the scale, rounded to float16 again, when the
/// codes are chosen.
[[nodiscard]] Quantized QuantizeToNearest(const torch::Tensor& weight, const LayerGrid& grid,
                                          const Adjustment& adjustment = {});

/// Offsets that make the same codes, with w / scale + offset at least `margin`, below 0.5, from
/// where the code would change, as far as an offset within 0.5 of 0 can. The adjustment's offset is
/// defined.
[[nodiscard]] torch::Tensor OffsetsWithMargin(const torch::Tensor& weight, const LayerGrid& grid,
                                              const Adjustment& adjustment, double margin);

/// The codes nearest to `weight` [out, in] on the scales and zero points of `quantized`.
[[nodiscard]] torch::Tensor NearestCodes(const torch::Tensor& weight, const Quantized& quantized);

/// The weights that the codes stand for, float32 [out, in].
[[nodiscard]] torch::Tensor Dequantize(const Quantized& quantized);

}  // namespace teq::quant
