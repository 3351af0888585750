#include "worker/engine/quant/cpu_kernels.h"

#include <algorithm>
#include <cstdint>

#include "worker/engine/model/multiversion.h"
#include "worker/engine/quant/rounding_math.h"

// Contraction is off for this file (see core.cmake): with fused multiply-adds the copies for
// different instruction sets would round differently.

namespace teq::quant::cpu {
namespace {

/// v becomes the group's scaled weights. Most layers have no output scale, and dividing by one
/// takes as long as by any other.
template <bool kDivide>
inline __attribute__((always_inline)) Extremes ScaleGroupBy(const Problem& problem,
                                                            const GroupPlace& place, float* v) {
  const float* weight = problem.weight + place.row * problem.columns + place.start;
  const float* scale = problem.input_scale + place.start;
  const float divisor = problem.output_scale[place.row];
  float low = 0;
  float high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (std::int64_t j = 0; j < problem.group_size; ++j) {
    const float value = kDivide ? weight[j] * scale[j] / divisor : weight[j] * scale[j];
    v[j] = value;
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  return {low, high};
}

// So far ahead of what is computed memory is asked for: a group's range is a chain of instructions
// that each wait for the last, behind which the processor does not see the next loads by itself.
constexpr std::int64_t kAhead = 1024;
constexpr std::int64_t kCacheLine = 64 / sizeof(float);

inline __attribute__((always_inline)) void Prefetch(const Problem& problem, const GroupPlace& place,
                                                    const float* target) {
  const float* weight = problem.weight + place.row * problem.columns + place.start;
  for (std::int64_t j = kAhead; j < kAhead + problem.group_size; j += kCacheLine) {
    __builtin_prefetch(weight + j);
    __builtin_prefetch(target + j, /*rw=*/1);
  }
}

inline __attribute__((always_inline)) Extremes ScaleGroup(const Problem& problem,
                                                          const GroupPlace& place, float* v) {
  return problem.output_scale[place.row] == 1 ? ScaleGroupBy<false>(problem, place, v)
                                              : ScaleGroupBy<true>(problem, place, v);
}

/// v becomes the rounded weights.
template <bool kOffset>
inline __attribute__((always_inline)) void RoundGroup(float* v, const float* offset,
                                                      std::int64_t size, const GroupRange& range,
                                                      float levels) {
  for (std::int64_t j = 0; j < size; ++j) {
    const float ratio = v[j] / range.scale;
    v[j] = Rounded(kOffset ? ratio + offset[j] : ratio, range, levels);
  }
}

/// dL/dv of a group without what flows through its range, and dL/doffset where there are offsets.
template <bool kOffset>
inline __attribute__((always_inline)) RangeFlow CodeGradient(const float* v, const float* offset,
                                                             const float* g, std::int64_t size,
                                                             const GroupRange& range, float levels,
                                                             float* dv, float* doffset) {
  float scale_sum = 0;
  float zero_sum = 0;
#pragma omp simd reduction(+ : scale_sum, zero_sum)
  for (std::int64_t j = 0; j < size; ++j) {
    const float ratio = v[j] / range.scale;
    const CodeFlow flow =
        FlowThroughCode(ratio, kOffset ? ratio + offset[j] : ratio, g[j], range, levels);
    dv[j] = flow.weight;
    scale_sum += flow.range.scale;
    zero_sum += flow.range.zero;
    if (kOffset) doffset[j] = flow.offset;
  }
  return {scale_sum, zero_sum};
}

/// The first of a group's values that is `value`.
inline __attribute__((always_inline)) std::int64_t Find(const float* v, std::int64_t size,
                                                        float value) {
  auto first = static_cast<std::int32_t>(size);
#pragma omp simd reduction(min : first)
  for (std::int32_t j = 0; j < static_cast<std::int32_t>(size); ++j) {
    const std::int32_t found = v[j] == value ? j : first;
    first = found < first ? found : first;
  }
  return first;
}

/// Adds what flows through scale and zero point to the group's smallest and largest weight; returns
/// what flows to its factors.
inline __attribute__((always_inline)) Factors AddRangeGradient(
    const float* v, const Problem& problem, const Extremes& extremes, const Factors& factors,
    const GroupRange& range, const RangeFlow& gradient, float* dv) {
  const Extremes ends = FlowToEnds(problem, range, gradient);
  Factors result{0, 0};
  if (extremes.high > 0) {
    dv[Find(v, problem.group_size, extremes.high)] += ends.high * factors.high;
    result.high = ends.high * extremes.high;
  }
  if (extremes.low < 0) {
    dv[Find(v, problem.group_size, extremes.low)] += ends.low * factors.low;
    result.low = ends.low * extremes.low;
  }
  return result;
}

/// The gradients of one row's groups with FULL; v becomes its scaled weights.
inline __attribute__((always_inline)) void FullGradient(const Problem& problem, std::int64_t row,
                                                        const float* upstream,
                                                        const Gradients& gradients, float* v,
                                                        float* dv) {
  const float levels = LargestCode(problem);
  const std::int64_t groups = problem.columns / problem.group_size;
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t start = group * problem.group_size;
    const std::int64_t at = row * problem.columns + start;
    const Factors factors = FactorsOf(problem, {row, start});
    const Extremes extremes = ScaleGroup(problem, {row, start}, v + start);
    const GroupRange range = RangeOf(extremes, problem, factors);
    const RangeFlow flow =
        problem.offset != nullptr
            ? CodeGradient<true>(v + start, problem.offset + at, upstream + start,
                                 problem.group_size, range, levels, dv + start,
                                 gradients.offset + at)
            : CodeGradient<false>(v + start, nullptr, upstream + start, problem.group_size, range,
                                  levels, dv + start, nullptr);
    const Factors to_factors =
        AddRangeGradient(v + start, problem, extremes, factors, range, flow, dv + start);
    if (gradients.low_factor != nullptr) {
      gradients.low_factor[row * groups + group] = to_factors.low;
    }
    if (gradients.high_factor != nullptr) {
      gradients.high_factor[row * groups + group] = to_factors.high;
    }
  }
}

/// The same with STRAIGHT_THROUGH: the identity, and nothing to the range.
inline __attribute__((always_inline)) void StraightThroughGradient(const Problem& problem,
                                                                   std::int64_t row,
                                                                   const float* upstream,
                                                                   const Gradients& gradients,
                                                                   float* v, float* dv) {
  std::copy(upstream, upstream + problem.columns, dv);
  for (std::int64_t start = 0; start < problem.columns; start += problem.group_size) {
    const Extremes extremes = ScaleGroup(problem, {row, start}, v + start);
    if (gradients.offset == nullptr) continue;
    const GroupRange range = RangeOf(extremes, problem, FactorsOf(problem, {row, start}));
    float* offset = gradients.offset + row * problem.columns + start;
    for (std::int64_t j = 0; j < problem.group_size; ++j) {
      offset[j] = upstream[start + j] * range.scale;
    }
  }
}

}  // namespace

TEQ_MULTIVERSION
void FakeQuantizeRows(const Problem& problem, std::int64_t begin, std::int64_t end, float* output) {
  const float levels = LargestCode(problem);
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t start = 0; start < problem.columns; start += problem.group_size) {
      float* v = output + row * problem.columns + start;
      Prefetch(problem, {row, start}, v);
      const Extremes extremes = ScaleGroup(problem, {row, start}, v);
      const GroupRange range = RangeOf(extremes, problem, FactorsOf(problem, {row, start}));
      if (problem.offset != nullptr) {
        RoundGroup<true>(v, problem.offset + row * problem.columns + start, problem.group_size,
                         range, levels);
      } else {
        RoundGroup<false>(v, nullptr, problem.group_size, range, levels);
      }
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
    if (full) {
      FullGradient(problem, row, g, gradients, v, dv);
    } else {
      StraightThroughGradient(problem, row, g, gradients, v, dv);
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
