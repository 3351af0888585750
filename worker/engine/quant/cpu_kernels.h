#pragma once

#include <cstdint>

#include "worker/engine/quant/rounding_math.h"

namespace teq::quant::cpu {

/// Where the gradients of one task go. With v the scaled weights, `columns` and `rows` are
/// dL/dlog(input_scale) and -dL/dlog(output_scale).
struct Gradients {
  float* columns = nullptr;  // [columns], to which sums over the task's rows of dL/dv * v are added
  float* rows = nullptr;     // [rows], sums over columns of dL/dv * v
  float* low_factor = nullptr;  // shaped as in Problem, and null where it is
  float* high_factor = nullptr;
  float* offset = nullptr;
};

/// The forward pass of FakeQuantize for rows [begin, end) into `output` [rows, columns]: range,
/// scale, zero point, codes and weights in one pass over a group while it is in cache.
void FakeQuantizeRows(const Problem& problem, std::int64_t begin, std::int64_t end, float* output);

/// Its gradients for rows [begin, end), recomputing the forward pass. `upstream`: [rows, columns],
/// with respect to the output. `scratch`: [2 * columns].
void FakeQuantizeGradientRows(const Problem& problem, const float* upstream, bool full,
                              std::int64_t begin, std::int64_t end, const Gradients& gradients,
                              float* scratch);

}  // namespace teq::quant::cpu
