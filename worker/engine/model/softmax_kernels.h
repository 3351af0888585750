#pragma once

#include <cstdint>

namespace teq::model::cpu {

/// A softmax whose values come slice by slice (Milakov and Gimelshein, arXiv 1805.02867).
struct RunningSoftmax {
  float maximum;  // of the values so far; starts at minus infinity
  float sum;      // of exp(value - maximum) so far; starts at 0
};

/// Adds a slice: `values` [size] become exp(value - the new maximum). Returns what everything that
/// was added before, in units of the old maximum, has to be multiplied by. NaN propagates.
[[nodiscard]] float AddSlice(float* values, std::int64_t size, RunningSoftmax& running);

}  // namespace teq::model::cpu
