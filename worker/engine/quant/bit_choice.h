#pragma once

#include <cstdint>
#include <vector>

namespace teq::quant {

/// What one width of code would cost a layer.
struct Candidate {
  int bits = 0;
  double error = 0;  // finite, not negative
};

/// A layer whose bits are to be chosen.
struct OpenLayer {
  std::int64_t weights = 0;
  std::vector<Candidate> candidates;  // at least one, ascending bits
};

/// The bits of every layer that make the sum of errors least while the average over all weights is
/// at most `target_bits`; every layer's fewest bits where even they exceed it.
///
/// Errors are taken to add up, and never to grow with the bits: one above that of fewer bits is
/// noise, and is read as theirs. Of equal sums the one with the most bits is taken, then the one
/// with the fewest in the last layers, so that the choice depends on the arguments alone.
///
/// A knapsack by dynamic programming, O(layers * units), one byte a state. It is exact where the
/// budget has at most 65536 units of the layers' greatest common divisor, as models' layers have.
/// Beyond that costs are rounded up to 1/65536 of the budget: the sum is then at most the least sum
/// of a budget that is smaller by that much for each layer.
[[nodiscard]] std::vector<int> ChooseBits(const std::vector<OpenLayer>& layers, double target_bits);

}  // namespace teq::quant
