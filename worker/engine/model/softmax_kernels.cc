#include "worker/engine/model/softmax_kernels.h"

#include <algorithm>
#include <limits>

#include "worker/engine/model/multiversion.h"
#include "worker/engine/model/vector_exp.h"

namespace teq::model::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

inline __attribute__((always_inline)) float Maximum(const float* values, std::int64_t size,
                                                    float maximum) {
#pragma omp simd reduction(max : maximum)
  for (std::int64_t i = 0; i < size; ++i) maximum = values[i] > maximum ? values[i] : maximum;
  return maximum;
}

/// Values become exp(value - maximum); returns their sum.
inline __attribute__((always_inline)) float Exponentials(float* values, std::int64_t size,
                                                         float maximum) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < size; ++i) {
    values[i] = ExpOfNegative(values[i] - maximum);
    sum += values[i];
  }
  return sum;
}

}  // namespace

TEQ_MULTIVERSION
float AddSlice(float* values, std::int64_t size, RunningSoftmax& running) {
  const float maximum = Maximum(values, size, running.maximum);
  // Nothing but minus infinity so far, whose differences would be no numbers.
  if (maximum == kNothing) {
    const float sum = Exponentials(values, size, 0);
    running.sum += sum;
    return 1;
  }
  const float factor = ExpOfNegative(running.maximum - maximum);
  running.sum = running.sum * factor + Exponentials(values, size, maximum);
  running.maximum = maximum;
  return factor;
}

}  // namespace teq::model::cpu
