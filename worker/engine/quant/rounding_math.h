#pragma once

// The arithmetic of fake quantization, for one weight and one group: the host's kernels and CUDA's
// have it from here, so that both make the same codes. It reads no header of LibTorch, so that a
// CUDA compiler alone can compile it, and it is C++17.
//
// Whoever includes this compiles without contraction into fused multiply-adds, which round
// differently (core.cmake, cuda.cmake).

#include <math.h>  // the functions that CUDA has under the same names

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TEQ_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TEQ_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace teq::quant {

/// The smallest positive float16.
inline constexpr float kSmallestScale = 5.9604645e-8F;

/// One matrix, its scales, its adjustment and its grid, all float32 row-major in the memory of who
/// computes.
struct Problem {
  const float* weight = nullptr;        // [rows, columns]
  const float* input_scale = nullptr;   // [columns]
  const float* output_scale = nullptr;  // [rows]
  const float* low_factor = nullptr;    // [rows, columns / group_size]; null: ones
  const float* high_factor = nullptr;   // the same
  const float* offset = nullptr;        // [rows, columns]; null: zeros
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t group_size = 0;
  int bits = 4;
  bool symmetric = false;
};

/// The columns of one group in one row.
struct GroupPlace {
  std::int64_t row;
  std::int64_t start;
};

/// A group's factors; see Problem.
struct Factors {
  float low = 1;
  float high = 1;
};

/// The least and the largest of a group's scaled weights, and 0.
struct Extremes {
  float low = 0;
  float high = 0;
};

struct GroupRange {
  float scale = 1;
  float low = 0;  // clipped
  float high = 0;
  float zero = 0;
  bool zero_is_free = false;  // not clamped
};

/// What flows into a range.
struct RangeFlow {
  float scale = 0;
  float zero = 0;
};

/// What flows through one weight's code: to the scaled weight, to its group's range, to its offset.
struct CodeFlow {
  float weight = 0;
  RangeFlow range;
  float offset = 0;
};

TEQ_HOST_DEVICE float Clamped(float value, float low, float high) {
  const float above = value < low ? low : value;
  return high < above ? high : above;
}

TEQ_HOST_DEVICE float LargestCode(const Problem& problem) {
  return static_cast<float>((1 << problem.bits) - 1);
}

TEQ_HOST_DEVICE std::int64_t GroupNumber(const Problem& problem, const GroupPlace& place) {
  return place.row * (problem.columns / problem.group_size) + place.start / problem.group_size;
}

TEQ_HOST_DEVICE Factors FactorsOf(const Problem& problem, const GroupPlace& place) {
  const std::int64_t group = GroupNumber(problem, place);
  return {problem.low_factor != nullptr ? problem.low_factor[group] : 1,
          problem.high_factor != nullptr ? problem.high_factor[group] : 1};
}

/// A scale, not negative, as float16 holds it: half to even, kSmallestScale at least.
TEQ_HOST_DEVICE float RoundToHalf(float value) {
  constexpr float kSmallestNormal = 6.103515625e-5F;  // 2^-14
  if (value < kSmallestNormal) {
    // Between 0.5 and 1 a float32's steps are 2^-24, as a float16's are below 2^-14.
    const float rounded = (value + 0.5F) - 0.5F;
    return rounded < kSmallestScale ? kSmallestScale : rounded;
  }
  constexpr std::uint32_t kDropped = 0x1FFF;  // of the 23 bits after the point float16 has 10
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = (bits + (kDropped >> 1) + ((bits >> 13) & 1)) & ~kDropped;
  float rounded = 0;
  std::memcpy(&rounded, &bits, sizeof(rounded));
  return rounded > 65504.0F ? INFINITY : rounded;
}

TEQ_HOST_DEVICE GroupRange RangeOf(const Extremes& extremes, const Problem& problem,
                                   const Factors& factors) {
  float low = extremes.low * factors.low;
  float high = extremes.high * factors.high;
  if (problem.symmetric) {
    float largest = -low < high ? high : -low;
    if (largest == 0) largest = 1;
    const float half = static_cast<float>(1 << (problem.bits - 1));
    return {RoundToHalf(largest / (half - 1)), low, high, half, false};
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  const float levels = LargestCode(problem);
  const float scale = RoundToHalf((high - low) / levels);
  const float zero = nearbyintf(-low / scale);
  const float clamped = Clamped(zero, 1, levels);
  return {scale, low, high, clamped, clamped == zero};
}

/// The weight that the nearest code stands for. `shifted`: v / scale, and the offset.
TEQ_HOST_DEVICE float Rounded(float shifted, const GroupRange& range, float levels) {
  const float code = nearbyintf(shifted) + range.zero;
  return (Clamped(code, 0, levels) - range.zero) * range.scale;
}

/// What `upstream`, the gradient of a rounded weight, sends through its code. `ratio`: v / scale.
TEQ_HOST_DEVICE CodeFlow FlowThroughCode(float ratio, float shifted, float upstream,
                                         const GroupRange& range, float levels) {
  const float rounded = nearbyintf(shifted);
  const float code = rounded + range.zero;
  const float clamped = Clamped(code, 0, levels);
  const bool inside = clamped == code;
  return {inside ? upstream : 0.0F,
          {upstream * (inside ? rounded - ratio : clamped - range.zero),
           inside ? 0.0F : -range.scale * upstream},
          inside ? upstream * range.scale : 0.0F};
}

/// What flows through scale and zero point to the ends of the clipped range.
TEQ_HOST_DEVICE Extremes FlowToEnds(const Problem& problem, const GroupRange& range,
                                    const RangeFlow& gradient) {
  if (problem.symmetric) {
    const float scale = gradient.scale / static_cast<float>((1 << (problem.bits - 1)) - 1);
    if (range.high >= -range.low) return {0, scale};
    return {-scale, 0};
  }
  const float zero = range.zero_is_free ? gradient.zero : 0;
  const float scale =
      (gradient.scale + zero * range.low / (range.scale * range.scale)) / LargestCode(problem);
  return {-scale - zero / range.scale, scale};
}

}  // namespace teq::quant
