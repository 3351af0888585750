#pragma once

#include <cstdint>

#include "proto/spec/validate.h"
#include "torch/types.h"
#include "worker/engine/quant/grid.h"

namespace teq::quant {

struct GptqSettings {
  double damping = 0.01;       // added to the Hessian's diagonal, as a share of its mean
  bool before_update = false;  // ranges from the original weights, not when a group's turn comes
  bool order_by_activation = true;
};

struct GptqResult {
  Quantized quantized;            // in the weight's own order of columns and groups
  double damping = 0;             // the share that was used
  std::int64_t dead_columns = 0;  // inputs that were never active
  bool compensated = true;        // false: plain rounding, no damping up to 1 made H definite
};

/// GPTQ (arXiv 2210.17323): column after column goes to its nearest code, and the columns after it
/// change so that trace(E H E^T), E being the error so far, grows least.
///
/// `weight`: float32 or float64 [out, in]; the arithmetic runs in its type and on its device; the
/// group size divides `in`. `hessian`: any positive multiple of X^T X, [in, in], on the same
/// device. Ranges and codes follow the rules of QuantizeToNearest.
///
/// Order by activation, as GPTQModel's group-aware order (arXiv 2505.14638): groups by the mean of
/// their Hessian diagonal, largest first, and columns by it inside their group; ties by index. A
/// column never leaves its group, so no g_idx is needed.
///
/// Never fails on a singular Hessian. A dead column (diagonal 0) does not count in the mean and
/// goes to its nearest code, which costs nothing. Where H is not positive definite, or only by
/// rounding, the damping grows tenfold up to 1; if that does not help either (H is not finite),
/// every weight goes to its nearest code. Needs room for some five more matrices of H's size.
[[nodiscard]] GptqResult RoundGptq(const torch::Tensor& weight, const torch::Tensor& hessian,
                                   const LayerGrid& grid, const ClipFactors& clip,
                                   const GptqSettings& settings);

}  // namespace teq::quant
