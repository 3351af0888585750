#pragma once

#include <cstdint>

#include "worker/engine/quant/group_kernels.h"

struct CUstream_st;  // a cudaStream_t is a pointer to it

namespace teq::quant::cuda {

/// Rows whose sums by column one block adds up, in order.
inline constexpr std::int64_t kRowsPerBlock = 16;

/// Where FakeQuantizeGradient's results go, on the device. With v the scaled weights, `columns` and
/// `rows` are parts of sums of dL/dv * v.
struct Gradients {
  float* columns = nullptr;     // [ceil(rows / kRowsPerBlock), columns], zeros before
  float* rows = nullptr;        // [rows, columns / group_size]
  float* low_factor = nullptr;  // shaped as in Problem, zeros before, and null where it is
  float* high_factor = nullptr;
  float* offset = nullptr;
};

/// One kernel each, on `stream` of the current device, which is the pointers'; nobody waits for it.
/// They return why it could not start, or null. The same tensors give the same bits.
[[nodiscard]] const char* FakeQuantize(const Problem& problem, float* output, CUstream_st* stream);
[[nodiscard]] const char* FakeQuantizeGradient(const Problem& problem, const float* upstream,
                                               bool full, const Gradients& gradients,
                                               CUstream_st* stream);

}  // namespace teq::quant::cuda
