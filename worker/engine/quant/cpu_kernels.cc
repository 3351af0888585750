#include "worker/engine/quant/cpu_kernels.h"

#include <algorithm>
#include <cmath>

#include "c10/util/Half.h"
#include "worker/engine/quant/range.h"

// The compiler makes one copy of a function for each instruction set, and the loader picks.
// Contraction is off for this file (see CMakeLists.txt): with fused multiply-adds the copies would
// round differently. The sanitizers cannot start programs that pick functions at load time.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    defined(__GNUC__) && !defined(__clang__)
#define TEQ_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "sse4.1", "default")))
#else
#define TEQ_MULTIVERSION
#endif

namespace teq::quant::cpu {
namespace {

struct GroupRange {
  float scale = 1;
  float low = 0;
  float zero = 0;
  bool zero_is_free = false;  // not clamped
};

inline __attribute__((always_inline)) float RoundToHalf(float value) {
  return std::max(static_cast<float>(c10::Half(value)), kSmallestScale);
}

inline __attribute__((always_inline)) GroupRange FindRange(const float* v, std::int64_t size,
                                                           int bits, bool symmetric) {
  const auto levels = static_cast<float>((1 << bits) - 1);
  float low = 0;
  float high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (std::int64_t j = 0; j < size; ++j) {
    low = v[j] < low ? v[j] : low;
    high = v[j] > high ? v[j] : high;
  }
  if (symmetric) {
    float largest = std::max(-low, high);
    if (largest == 0) largest = 1;
    const float half = static_cast<float>(1 << (bits - 1));
    return {RoundToHalf(largest / (half - 1)), low, half, false};
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  const float scale = RoundToHalf((high - low) / levels);
  const float zero = std::nearbyint(-low / scale);
  const float clamped = std::min(std::max(zero, 1.0F), levels);
  return {scale, low, clamped, clamped == zero};
}

inline __attribute__((always_inline)) void ScaleRow(const Problem& problem, std::int64_t row,
                                                    float* v) {
  const float* weight = problem.weight + row * problem.columns;
  const float* scale = problem.input_scale;
  const float divisor = problem.output_scale[row];
  for (std::int64_t j = 0; j < problem.columns; ++j) v[j] = weight[j] * scale[j] / divisor;
}

struct RangeGradient {
  float scale = 0;
  float zero = 0;
};

/// dL/dv of a group without what flows through its range; returns what flows into the range.
inline __attribute__((always_inline)) RangeGradient CodeGradient(const float* v, const float* g,
                                                                 std::int64_t size,
                                                                 const GroupRange& range,
                                                                 float levels, float* dv) {
  float scale_sum = 0;
  float zero_sum = 0;
#pragma omp simd reduction(+ : scale_sum, zero_sum)
  for (std::int64_t j = 0; j < size; ++j) {
    const float ratio = v[j] / range.scale;
    const float rounded = std::nearbyint(ratio);
    const float code = rounded + range.zero;
    const float clamped = std::min(std::max(code, 0.0F), levels);
    const bool inside = clamped == code;
    dv[j] = inside ? g[j] : 0.0F;
    scale_sum += g[j] * (inside ? rounded - ratio : clamped - range.zero);
    zero_sum += inside ? 0.0F : -range.scale * g[j];
  }
  return {scale_sum, zero_sum};
}

/// Adds what flows through scale and zero point to the group's smallest and largest weight.
inline void AddRangeGradient(const float* v, std::int64_t size, int bits, bool symmetric,
                             const GroupRange& range, const RangeGradient& gradient, float* dv) {
  if (symmetric) {
    const float* largest =
        std::max_element(v, v + size, [](float a, float b) { return std::abs(a) < std::abs(b); });
    const auto steps = static_cast<float>((1 << (bits - 1)) - 1);
    if (*largest > 0) dv[largest - v] += gradient.scale / steps;
    if (*largest < 0) dv[largest - v] -= gradient.scale / steps;
    return;
  }
  const auto levels = static_cast<float>((1 << bits) - 1);
  const auto [smallest, largest] = std::minmax_element(v, v + size);
  const float zero = range.zero_is_free ? gradient.zero : 0;
  const float scale = gradient.scale + zero * range.low / (range.scale * range.scale);
  if (*largest > 0) dv[largest - v] += scale / levels;
  if (*smallest < 0) dv[smallest - v] += -scale / levels - zero / range.scale;
}

}  // namespace

TEQ_MULTIVERSION
void FakeQuantizeRows(const Problem& problem, std::int64_t begin, std::int64_t end, float* output) {
  const auto levels = static_cast<float>((1 << problem.bits) - 1);
  for (std::int64_t row = begin; row < end; ++row) {
    float* v = output + row * problem.columns;
    ScaleRow(problem, row, v);
    for (std::int64_t start = 0; start < problem.columns; start += problem.group_size) {
      float* group = v + start;
      const GroupRange range =
          FindRange(group, problem.group_size, problem.bits, problem.symmetric);
      for (std::int64_t j = 0; j < problem.group_size; ++j) {
        const float code = std::nearbyint(group[j] / range.scale) + range.zero;
        group[j] = (std::min(std::max(code, 0.0F), levels) - range.zero) * range.scale;
      }
    }
  }
}

TEQ_MULTIVERSION
void FakeQuantizeGradientRows(const Problem& problem, const float* gradient, bool full,
                              std::int64_t begin, std::int64_t end, float* column_sums,
                              float* row_sums, float* scratch) {
  const auto levels = static_cast<float>((1 << problem.bits) - 1);
  float* v = scratch;
  float* dv = scratch + problem.columns;
  for (std::int64_t row = begin; row < end; ++row) {
    const float* g = gradient + row * problem.columns;
    ScaleRow(problem, row, v);
    if (full) {
      for (std::int64_t start = 0; start < problem.columns; start += problem.group_size) {
        const GroupRange range =
            FindRange(v + start, problem.group_size, problem.bits, problem.symmetric);
        const RangeGradient flow =
            CodeGradient(v + start, g + start, problem.group_size, range, levels, dv + start);
        AddRangeGradient(v + start, problem.group_size, problem.bits, problem.symmetric, range,
                         flow, dv + start);
      }
    } else {
      std::copy(g, g + problem.columns, dv);
    }
    float row_sum = 0;
#pragma omp simd reduction(+ : row_sum)
    for (std::int64_t j = 0; j < problem.columns; ++j) {
      const float product = dv[j] * v[j];
      column_sums[j] += product;
      row_sum += product;
    }
    row_sums[row] = row_sum;
  }
}

}  // namespace teq::quant::cpu
