#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace teq::model::cpu {

/// exp(x) for x <= 0, within two units in the last place; 0 where the result would be subnormal,
/// NaN for NaN. Written so that the compiler vectorizes loops over it (the polynomial is Cephes').
inline __attribute__((always_inline)) float ExpOfNegative(float x) {
  constexpr float kLeast = -87.3F;  // exp of it is the least normal number, nearly
  constexpr float kLog2E = 1.44269504F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  // NaN has no exponent; it stays in the mantissa alone.
  const float bounded = x < kLeast ? kLeast : x;
  const float exponent = std::nearbyint((x > kLeast ? x : kLeast) * kLog2E);
  const float r = (bounded - exponent * kLn2High) - exponent * kLn2Low;
  float sum = 1.9875691500e-4F;
  sum = sum * r + 1.3981999507e-3F;
  sum = sum * r + 8.3334519073e-3F;
  sum = sum * r + 4.1665795894e-2F;
  sum = sum * r + 1.6666665459e-1F;
  sum = sum * r + 5.0000001201e-1F;
  const float mantissa = sum * r * r + r + 1;
  const std::int32_t bits = (static_cast<std::int32_t>(exponent) + 127) * (1 << 23);
  return x < kLeast ? 0.0F : mantissa * std::bit_cast<float>(bits);
}

}  // namespace teq::model::cpu
