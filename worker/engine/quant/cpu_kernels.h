#pragma once

#include <cstdint>

namespace teq::quant::cpu {

/// One matrix, its scales and its grid, all float32 row-major on the host.
struct Problem {
  const float* weight = nullptr;        // [rows, columns]
  const float* input_scale = nullptr;   // [columns]
  const float* output_scale = nullptr;  // [rows]
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t group_size = 0;
  int bits = 4;
  bool symmetric = false;
};

/// The forward pass of FakeQuantize for rows [begin, end) into `output` [rows, columns]: range,
/// scale, zero point, codes and weights in one pass over a group while it is in cache.
void FakeQuantizeRows(const Problem& problem, std::int64_t begin, std::int64_t end, float* output);

/// Its gradient for rows [begin, end), recomputing the forward pass. `gradient`: [rows, columns],
/// with respect to the output. Adds sum over rows of dL/dv * v to `column_sums` [columns], and
/// writes the sum over columns of dL/dv * v to `row_sums` [rows], where v are the scaled weights:
/// dL/dlog(input_scale) and -dL/dlog(output_scale). `scratch`: [2 * columns].
void FakeQuantizeGradientRows(const Problem& problem, const float* gradient, bool full,
                              std::int64_t begin, std::int64_t end, float* column_sums,
                              float* row_sums, float* scratch);

}  // namespace teq::quant::cpu
