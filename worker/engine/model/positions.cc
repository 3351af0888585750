#include "worker/engine/model/positions.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace teq::model {
namespace {

using model_info::RopeScaling;
using model_info::Rotary;
using torch::Tensor;

/// How much of a frequency is left as it is; the rest is divided by the factor. Llama 3 keeps
/// wavelengths shorter than original / high and divides those longer than original / low.
double Llama3Share(const RopeScaling& scaling, double frequency) {
  const double turns =
      static_cast<double>(scaling.original_max_positions) * frequency / (2 * std::numbers::pi);
  return std::clamp((turns - scaling.low_frequency_factor) /
                        (scaling.high_frequency_factor - scaling.low_frequency_factor),
                    0.0, 1.0);
}

/// The same for yarn, whose ramp is linear in the dimension, between those that turn beta_fast and
/// beta_slow times over the original positions.
double YarnShare(const RopeScaling& scaling, double theta, std::int64_t dimensions,
                 std::size_t index) {
  const auto size = static_cast<double>(dimensions);
  const auto dimension_of = [&](double turns) {
    return size *
           std::log(static_cast<double>(scaling.original_max_positions) /
                    (turns * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  double low = dimension_of(scaling.beta_fast);
  double high = dimension_of(scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, size - 1);
  if (low == high) high += 0.001;
  return 1 - std::clamp((static_cast<double>(index) - low) / (high - low), 0.0, 1.0);
}

/// The base that dynamic scaling takes for a text of `length` tokens.
double DynamicTheta(const Rotary& rotary, std::int64_t length) {
  const RopeScaling& scaling = *rotary.scaling;
  const auto original = static_cast<double>(scaling.original_max_positions);
  const double stretch =
      scaling.factor * std::max(static_cast<double>(length), original) / original -
      (scaling.factor - 1);
  const auto size = static_cast<double>(rotary.dimensions);
  return rotary.theta * std::pow(stretch, size / (size - 2));
}

/// A frequency after scaling.
double Scaled(const Rotary& rotary, double frequency, std::size_t index, std::int64_t length) {
  const RopeScaling& scaling = *rotary.scaling;
  double kept = 0;
  switch (scaling.kind) {
    case RopeScaling::Kind::kLinear:
      break;
    case RopeScaling::Kind::kDynamic:
      return frequency;  // its base is stretched
    case RopeScaling::Kind::kLlama3:
      kept = Llama3Share(scaling, frequency);
      break;
    case RopeScaling::Kind::kYarn:
      kept = YarnShare(scaling, rotary.theta, rotary.dimensions, index);
      break;
    case RopeScaling::Kind::kLongRope:
      return frequency / (length > scaling.original_max_positions ? scaling.long_factors
                                                                  : scaling.short_factors)[index];
  }
  return (1 - kept) * frequency / scaling.factor + kept * frequency;
}

/// Radians per position, [dimensions / 2].
std::vector<double> Frequencies(const Rotary& rotary, std::int64_t length) {
  const bool dynamic = rotary.scaling && rotary.scaling->kind == RopeScaling::Kind::kDynamic;
  const double theta = dynamic ? DynamicTheta(rotary, length) : rotary.theta;
  std::vector<double> frequencies(static_cast<std::size_t>(rotary.dimensions / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(rotary.dimensions);
    const double frequency = std::pow(theta, -exponent);
    frequencies[i] = rotary.scaling ? Scaled(rotary, frequency, i, length) : frequency;
  }
  return frequencies;
}

}  // namespace

RotaryTable MakeRotaryTable(const Rotary& rotary, std::int64_t length,
                            const torch::Device& device) {
  const Tensor frequencies = torch::tensor(Frequencies(rotary, length), torch::kFloat64);
  const Tensor angles = torch::outer(torch::arange(length, torch::kFloat64), frequencies);
  const double factor = rotary.scaling ? rotary.scaling->attention_factor : 1;
  return {(angles.cos() * factor).to(device, torch::kFloat32),
          (angles.sin() * factor).to(device, torch::kFloat32)};
}

Tensor Rotate(const Tensor& heads, const Rotary& rotary, const RotaryTable& table) {
  const std::int64_t half = rotary.dimensions / 2;
  const Tensor turning = heads.slice(-1, 0, rotary.dimensions);
  const Tensor pairs = rotary.interleaved ? turning.unflatten(-1, {half, 2}).transpose(-1, -2)
                                          : turning.unflatten(-1, {2, half});
  const Tensor first = pairs.select(-2, 0);
  const Tensor second = pairs.select(-2, 1);
  const Tensor turned = torch::stack({first * table.cosine - second * table.sine,
                                      second * table.cosine + first * table.sine},
                                     rotary.interleaved ? -1 : -2)
                            .flatten(-2);
  if (rotary.dimensions == heads.size(-1)) return turned;
  return torch::cat({turned, heads.slice(-1, rotary.dimensions)}, -1);
}

std::vector<double> AlibiSlopes(std::int64_t heads, double alibi_max) {
  std::int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  const auto slope = [&](double step) {
    return std::pow(2.0, -alibi_max * step / static_cast<double>(power));
  };
  std::vector<double> slopes;
  for (std::int64_t head = 0; head < heads; ++head) {
    // Beyond the power of two come the odd half steps.
    slopes.push_back(head < power ? slope(static_cast<double>(head + 1))
                                  : slope(static_cast<double>(head - power) + 0.5));
  }
  return slopes;
}

Tensor AttentionMask(std::int64_t window, std::int64_t length, const torch::Device& device) {
  const auto options = torch::TensorOptions().device(device);
  Tensor hidden = torch::ones({length, length}, options.dtype(torch::kBool)).triu(1);
  if (window > 0 && window < length) {
    hidden |= torch::ones({length, length}, options.dtype(torch::kBool)).tril(-window);
  }
  return torch::zeros({length, length}, options.dtype(torch::kFloat32))
      .masked_fill(hidden, -std::numeric_limits<float>::infinity());
}

Tensor AlibiBias(const model_info::ModelConfig& config, std::int64_t length,
                 const torch::Device& device) {
  const auto options = torch::TensorOptions().device(device).dtype(torch::kFloat32);
  const Tensor slopes = torch::tensor(AlibiSlopes(config.heads, config.alibi_max), options)
                            .view({config.kv_heads, -1, 1, 1});
  // Softmax forgets what is the same for all keys, so the distance from the last one will do.
  return slopes * torch::arange(1 - length, 1, options) * config.alibi_scale;
}

}  // namespace teq::model
