#include "worker/engine/quant/cpu_kernels.h"

#include <algorithm>
#include <cmath>

#include "c10/util/Half.h"
#include "worker/engine/model/multiversion.h"
#include "worker/engine/quant/range.h"

// Contraction is off for this file (see core.cmake): with fused multiply-adds the copies for
// different instruction sets would round differently.

namespace teq::quant::cpu {
namespace {

// A group's factors; see Problem.
struct Factors {
  float low = 1;
  float high = 1;
};

struct GroupRange {
  float scale = 1;
  float low = 0;  // clipped
  float high = 0;
  float zero = 0;
  bool zero_is_free = false;  // not clamped
};

inline __attribute__((always_inline)) float RoundToHalf(float value) {
  return std::max(static_cast<float>(c10::Half(value)), kSmallestScale);
}

inline Factors FactorsOf(const Problem& problem, std::int64_t row, std::int64_t column) {
  const std::int64_t group =
      row * (problem.columns / problem.group_size) + column / problem.group_size;
  return {problem.low_factor != nullptr ? problem.low_factor[group] : 1,
          problem.high_factor != nullptr ? problem.high_factor[group] : 1};
}

inline __attribute__((always_inline)) GroupRange FindRange(const float* v, const Problem& problem,
                                                           const Factors& factors) {
  const auto levels = static_cast<float>((1 << problem.bits) - 1);
  float low = 0;
  float high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (std::int64_t j = 0; j < problem.group_size; ++j) {
    low = v[j] < low ? v[j] : low;
    high = v[j] > high ? v[j] : high;
  }
  low *= factors.low;
  high *= factors.high;
  if (problem.symmetric) {
    float largest = std::max(-low, high);
    if (largest == 0) largest = 1;
    const float half = static_cast<float>(1 << (problem.bits - 1));
    return {RoundToHalf(largest / (half - 1)), low, high, half, false};
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  const float scale = RoundToHalf((high - low) / levels);
  const float zero = std::nearbyint(-low / scale);
  const float clamped = std::min(std::max(zero, 1.0F), levels);
  return {scale, low, high, clamped, clamped == zero};
}

inline __attribute__((always_inline)) void ScaleRow(const Problem& problem, std::int64_t row,
                                                    float* v) {
  const float* weight = problem.weight + row * problem.columns;
  const float* scale = problem.input_scale;
  const float divisor = problem.output_scale[row];
  for (std::int64_t j = 0; j < problem.columns; ++j) v[j] = weight[j] * scale[j] / divisor;
}

/// v becomes the rounded weights.
inline __attribute__((always_inline)) void RoundGroup(float* v, const float* offset,
                                                      std::int64_t size, const GroupRange& range,
                                                      float levels) {
  for (std::int64_t j = 0; j < size; ++j) {
    const float ratio = offset == nullptr ? v[j] / range.scale : v[j] / range.scale + offset[j];
    const float code = std::nearbyint(ratio) + range.zero;
    v[j] = (std::min(std::max(code, 0.0F), levels) - range.zero) * range.scale;
  }
}

/// What flows into a range.
struct RangeGradient {
  float scale = 0;
  float zero = 0;
};

/// dL/dv of a group without what flows through its range, and dL/doffset where there are offsets.
inline __attribute__((always_inline)) RangeGradient CodeGradient(
    const float* v, const float* offset, const float* g, std::int64_t size, const GroupRange& range,
    float levels, float* dv, float* doffset) {
  float scale_sum = 0;
  float zero_sum = 0;
#pragma omp simd reduction(+ : scale_sum, zero_sum)
  for (std::int64_t j = 0; j < size; ++j) {
    const float ratio = v[j] / range.scale;
    const float rounded = std::nearbyint(offset == nullptr ? ratio : ratio + offset[j]);
    const float code = rounded + range.zero;
    const float clamped = std::min(std::max(code, 0.0F), levels);
    const bool inside = clamped == code;
    dv[j] = inside ? g[j] : 0.0F;
    scale_sum += g[j] * (inside ? rounded - ratio : clamped - range.zero);
    zero_sum += inside ? 0.0F : -range.scale * g[j];
    if (doffset != nullptr) doffset[j] = inside ? g[j] * range.scale : 0.0F;
  }
  return {scale_sum, zero_sum};
}

/// Adds what flows through scale and zero point to the group's smallest and largest weight; returns
/// what flows to its factors.
inline Factors AddRangeGradient(const float* v, const Problem& problem, const Factors& factors,
                                const GroupRange& range, const RangeGradient& gradient, float* dv) {
  const auto [smallest, largest] = std::minmax_element(v, v + problem.group_size);
  float low = 0;  // dL/d(clipped range)
  float high = 0;
  if (problem.symmetric) {
    const float scale = gradient.scale / static_cast<float>((1 << (problem.bits - 1)) - 1);
    (range.high >= -range.low ? high : low) = range.high >= -range.low ? scale : -scale;
  } else {
    const float zero = range.zero_is_free ? gradient.zero : 0;
    const float scale = (gradient.scale + zero * range.low / (range.scale * range.scale)) /
                        static_cast<float>((1 << problem.bits) - 1);
    high = scale;
    low = -scale - zero / range.scale;
  }
  Factors result{0, 0};
  if (*largest > 0) {
    dv[largest - v] += high * factors.high;
    result.high = high * *largest;
  }
  if (*smallest < 0) {
    dv[smallest - v] += low * factors.low;
    result.low = low * *smallest;
  }
  return result;
}

/// The gradients of one row's groups with FULL.
inline __attribute__((always_inline)) void FullGradient(const Problem& problem, std::int64_t row,
                                                        const float* v, const float* upstream,
                                                        const Gradients& gradients, float* dv) {
  const auto levels = static_cast<float>((1 << problem.bits) - 1);
  const std::int64_t groups = problem.columns / problem.group_size;
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t start = group * problem.group_size;
    const std::int64_t at = row * problem.columns + start;
    const Factors factors = FactorsOf(problem, row, start);
    const GroupRange range = FindRange(v + start, problem, factors);
    const RangeGradient flow =
        CodeGradient(v + start, problem.offset != nullptr ? problem.offset + at : nullptr,
                     upstream + start, problem.group_size, range, levels, dv + start,
                     gradients.offset != nullptr ? gradients.offset + at : nullptr);
    const Factors to_factors =
        AddRangeGradient(v + start, problem, factors, range, flow, dv + start);
    if (gradients.low_factor != nullptr) {
      gradients.low_factor[row * groups + group] = to_factors.low;
    }
    if (gradients.high_factor != nullptr) {
      gradients.high_factor[row * groups + group] = to_factors.high;
    }
  }
}

/// The same with STRAIGHT_THROUGH: the identity, and nothing to the range.
inline void StraightThroughGradient(const Problem& problem, std::int64_t row, const float* v,
                                    const float* upstream, const Gradients& gradients, float* dv) {
  std::copy(upstream, upstream + problem.columns, dv);
  if (gradients.offset == nullptr) return;
  for (std::int64_t start = 0; start < problem.columns; start += problem.group_size) {
    const GroupRange range = FindRange(v + start, problem, FactorsOf(problem, row, start));
    float* offset = gradients.offset + row * problem.columns + start;
    for (std::int64_t j = 0; j < problem.group_size; ++j) {
      offset[j] = upstream[start + j] * range.scale;
    }
  }
}

}  // namespace

TEQ_MULTIVERSION
void FakeQuantizeRows(const Problem& problem, std::int64_t begin, std::int64_t end, float* output) {
  const auto levels = static_cast<float>((1 << problem.bits) - 1);
  for (std::int64_t row = begin; row < end; ++row) {
    float* v = output + row * problem.columns;
    ScaleRow(problem, row, v);
    for (std::int64_t start = 0; start < problem.columns; start += problem.group_size) {
      const GroupRange range = FindRange(v + start, problem, FactorsOf(problem, row, start));
      const float* offset =
          problem.offset != nullptr ? problem.offset + row * problem.columns + start : nullptr;
      RoundGroup(v + start, offset, problem.group_size, range, levels);
    }
  }
}

TEQ_MULTIVERSION
void FakeQuantizeGradientRows(const Problem& problem, const float* upstream, bool full,
                              std::int64_t begin, std::int64_t end, const Gradients& gradients,
                              float* scratch) {
  float* v = scratch;
  float* dv = scratch + problem.columns;
  for (std::int64_t row = begin; row < end; ++row) {
    const float* g = upstream + row * problem.columns;
    ScaleRow(problem, row, v);
    if (full) {
      FullGradient(problem, row, v, g, gradients, dv);
    } else {
      StraightThroughGradient(problem, row, v, g, gradients, dv);
    }
    float row_sum = 0;
#pragma omp simd reduction(+ : row_sum)
    for (std::int64_t j = 0; j < problem.columns; ++j) {
      const float product = dv[j] * v[j];
      gradients.columns[j] += product;
      row_sum += product;
    }
    gradients.rows[row] = row_sum;
  }
}

}  // namespace teq::quant::cpu
