#pragma once

// What the threads of a CUDA block do to one group, together. No thread of them is told where it
// runs: tests run the same code by threads of the host.
//
// `Lanes` are the threads: count() of them, this one being index(); All(value, combine) combines
// the values of all of them, in one order, and gives the result to each. Lane i takes columns i, i
// + count(), ... of a group, and nothing else writes what belongs to these.

#include "worker/engine/quant/rounding_math.h"

namespace teq::quant {

struct Least {
  template <typename T>
  TEQ_HOST_DEVICE T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Largest {
  template <typename T>
  TEQ_HOST_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Sum {
  template <typename T>
  TEQ_HOST_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};

/// Where a group's gradients go; shaped as in Problem.
struct GroupGradients {
  float* columns = nullptr;     // [columns], to which dL/dv * v is added
  float* low_factor = nullptr;  // null where Problem's is, as the next two
  float* high_factor = nullptr;
  float* offset = nullptr;
};

TEQ_HOST_DEVICE float ScaledWeight(const Problem& problem, const GroupPlace& place,
                                   std::int64_t j) {
  return problem.weight[place.row * problem.columns + place.start + j] *
         problem.input_scale[place.start + j] / problem.output_scale[place.row];
}

template <typename Lanes>
TEQ_HOST_DEVICE Extremes ExtremesOf(const Problem& problem, const GroupPlace& place, Lanes& lanes) {
  Extremes extremes;
  for (std::int64_t j = lanes.index(); j < problem.group_size; j += lanes.count()) {
    const float v = ScaledWeight(problem, place, j);
    extremes.low = Least()(extremes.low, v);
    extremes.high = Largest()(extremes.high, v);
  }
  return {lanes.All(extremes.low, Least()), lanes.All(extremes.high, Largest())};
}

/// FakeQuantize's forward pass for one group. `output`: [rows, columns].
template <typename Lanes>
TEQ_HOST_DEVICE void FakeQuantizeGroup(const Problem& problem, const GroupPlace& place,
                                       Lanes& lanes, float* output) {
  const GroupRange range =
      RangeOf(ExtremesOf(problem, place, lanes), problem, FactorsOf(problem, place));
  const float levels = LargestCode(problem);
  const std::int64_t at = place.row * problem.columns + place.start;
  for (std::int64_t j = lanes.index(); j < problem.group_size; j += lanes.count()) {
    const float ratio = ScaledWeight(problem, place, j) / range.scale;
    output[at + j] =
        Rounded(problem.offset != nullptr ? ratio + problem.offset[at + j] : ratio, range, levels);
  }
}

/// What of an end's gradient belongs to the group's first weight that is the extreme, and to the
/// end's factor. `first`: this lane's first one. Returns what it adds to the row's sum.
template <typename Lanes>
TEQ_HOST_DEVICE float AddToExtreme(const GroupPlace& place, Lanes& lanes, std::int64_t first,
                                   float gradient, float factor, float extreme, float* columns) {
  if (extreme == 0) return 0;
  first = lanes.All(first, Least());
  if (first % lanes.count() != lanes.index()) return 0;
  const float product = gradient * factor * extreme;
  columns[place.start + first] += product;
  return product;
}

/// Its gradients for one group; see FakeQuantize for `full`. Returns the sum of dL/dv * v over the
/// group. `upstream`: [rows, columns].
template <typename Lanes>
TEQ_HOST_DEVICE float FakeQuantizeGradientGroup(const Problem& problem, const GroupPlace& place,
                                                Lanes& lanes, const float* upstream, bool full,
                                                const GroupGradients& gradients) {
  const Factors factors = FactorsOf(problem, place);
  const Extremes extremes = ExtremesOf(problem, place, lanes);
  const GroupRange range = RangeOf(extremes, problem, factors);
  const float levels = LargestCode(problem);
  const std::int64_t at = place.row * problem.columns + place.start;
  RangeFlow sums;
  float row_sum = 0;
  std::int64_t first_low = problem.group_size;
  std::int64_t first_high = problem.group_size;
  for (std::int64_t j = lanes.index(); j < problem.group_size; j += lanes.count()) {
    const float v = ScaledWeight(problem, place, j);
    const float g = upstream[at + j];
    CodeFlow flow{g, {}, g * range.scale};
    if (full) {
      const float ratio = v / range.scale;
      flow =
          FlowThroughCode(ratio, problem.offset != nullptr ? ratio + problem.offset[at + j] : ratio,
                          g, range, levels);
    }
    if (gradients.offset != nullptr) gradients.offset[at + j] = flow.offset;
    gradients.columns[place.start + j] += flow.weight * v;
    row_sum += flow.weight * v;
    sums.scale += flow.range.scale;
    sums.zero += flow.range.zero;
    if (v == extremes.low) first_low = Least()(first_low, j);
    if (v == extremes.high) first_high = Least()(first_high, j);
  }
  if (full) {
    sums = {lanes.All(sums.scale, Sum()), lanes.All(sums.zero, Sum())};
    const Extremes ends = FlowToEnds(problem, range, sums);
    row_sum += AddToExtreme(place, lanes, first_low, ends.low, factors.low, extremes.low,
                            gradients.columns);
    row_sum += AddToExtreme(place, lanes, first_high, ends.high, factors.high, extremes.high,
                            gradients.columns);
    if (lanes.index() == 0) {
      const std::int64_t group = GroupNumber(problem, place);
      if (gradients.low_factor != nullptr) gradients.low_factor[group] = ends.low * extremes.low;
      if (gradients.high_factor != nullptr)
        gradients.high_factor[group] = ends.high * extremes.high;
    }
  }
  return lanes.All(row_sum, Sum());
}

}  // namespace teq::quant
