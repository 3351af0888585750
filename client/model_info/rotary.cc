#include "client/model_info/rotary.h"

#include <algorithm>
#include <cmath>

#include "fmt/format.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::ordered_json;
using Kind = RopeScaling::Kind;

/// yarn's temperature: 0.1 * m * ln(factor) + 1 (arXiv 2309.00071, eq. 22).
double YarnTemperature(double factor, double scale) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

void ReadLlama3(ConfigReader& reader, RopeScaling& scaling) {
  scaling.low_frequency_factor = reader.Positive("low_freq_factor", 1);
  scaling.high_frequency_factor = reader.Positive("high_freq_factor", 4);
  scaling.original_max_positions = reader.Size("original_max_position_embeddings");
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    reader.Invalid("high_freq_factor must be above low_freq_factor");
  }
}

void ReadYarn(ConfigReader& reader, std::int64_t max_positions, RopeScaling& scaling) {
  scaling.original_max_positions = reader.Size("original_max_position_embeddings", max_positions);
  if (!reader.Has("factor")) {
    scaling.factor =
        static_cast<double>(max_positions) / static_cast<double>(scaling.original_max_positions);
  }
  // 0 means the default.
  const auto either = [](double value, double fallback) { return value > 0 ? value : fallback; };
  scaling.beta_fast = either(reader.Limit("beta_fast"), 32);
  scaling.beta_slow = either(reader.Limit("beta_slow"), 1);
  reader.Ignore({"finetuned"});
  scaling.truncate = reader.Flag("truncate", true);
  double temperature = YarnTemperature(scaling.factor, 1);
  const double scale = reader.Limit("mscale");
  const double scale_all = reader.Limit("mscale_all_dim");
  if (scale > 0 && scale_all > 0) {
    temperature =
        YarnTemperature(scaling.factor, scale) / YarnTemperature(scaling.factor, scale_all);
  }
  scaling.attention_factor = reader.Positive("attention_factor", temperature);
}

void ReadLongRope(ConfigReader& reader, std::int64_t original, std::int64_t max_positions,
                  std::int64_t dimensions, RopeScaling& scaling) {
  scaling.original_max_positions = reader.Size("original_max_position_embeddings", original);
  scaling.short_factors = reader.Numbers("short_factor");
  scaling.long_factors = reader.Numbers("long_factor");
  for (const auto* factors : {&scaling.short_factors, &scaling.long_factors}) {
    if (static_cast<std::int64_t>(factors->size()) == dimensions / 2) continue;
    reader.Invalid(fmt::format("short_factor and long_factor must have {} numbers; found {}",
                               dimensions / 2, factors->size()));
  }
  const double ratio =
      scaling.original_max_positions < max_positions
          ? static_cast<double>(max_positions) / static_cast<double>(scaling.original_max_positions)
          : scaling.factor;
  const double temperature =
      ratio <= 1 ? 1
                 : std::sqrt(1 + std::log(ratio) /
                                     std::log(static_cast<double>(scaling.original_max_positions)));
  scaling.attention_factor = reader.Positive("attention_factor", temperature);
}

std::optional<RopeScaling> ReadScaling(ConfigReader& reader, std::int64_t original,
                                       std::int64_t max_positions, std::int64_t dimensions,
                                       bool yarn_is_longrope) {
  const std::string kind = reader.Text({"rope_type", "type"}, "default");
  RopeScaling scaling;
  scaling.factor = reader.Positive("factor", 1);
  scaling.original_max_positions = max_positions;
  if (kind == "default") return std::nullopt;
  if (kind == "longrope" || kind == "su" || (kind == "yarn" && yarn_is_longrope)) {
    scaling.kind = Kind::kLongRope;
    ReadLongRope(reader, original, max_positions, dimensions, scaling);
  } else if (kind == "linear") {
    scaling.kind = Kind::kLinear;
    reader.Ignore({"original_max_position_embeddings"});
  } else if (kind == "dynamic") {
    scaling.kind = Kind::kDynamic;
    // The base grows past max_position_embeddings, whatever stands here.
    reader.Ignore({"original_max_position_embeddings"});
  } else if (kind == "llama3") {
    scaling.kind = Kind::kLlama3;
    ReadLlama3(reader, scaling);
  } else if (kind == "yarn") {
    scaling.kind = Kind::kYarn;
    ReadYarn(reader, max_positions, scaling);
  } else {
    reader.Unsupported(fmt::format(
        "type \"{}\" is not supported; supported: default, linear, dynamic, llama3, yarn, longrope",
        kind));
  }
  return scaling;
}

}  // namespace

Rotary ReadRotary(ConfigReader& config, std::int64_t head_size, std::int64_t max_positions,
                  const RotaryDefaults& defaults) {
  const bool newer = config.Has("rope_parameters");
  const Json& object = config.Object(newer ? "rope_parameters" : "rope_scaling");
  ConfigReader scaling(object, config.where() + (newer ? ": rope_parameters" : ": rope_scaling"));
  Rotary rotary;
  rotary.theta =
      scaling.Positive("rope_theta", config.Positive(defaults.theta_key, defaults.theta));
  const double fraction = scaling.Positive(
      "partial_rotary_factor", config.Positive(defaults.fraction_key, defaults.fraction));
  if (fraction > 1) config.Invalid(fmt::format("{} of a head's dimensions turn", fraction));
  if (rotary.theta <= 1)
    config.Invalid(fmt::format("rope_theta is {}; it must be above 1", rotary.theta));
  rotary.dimensions =
      static_cast<std::int64_t>(static_cast<double>(head_size) * std::min(fraction, 1.0));
  const std::int64_t original =
      config.Size("original_max_position_embeddings",
                  defaults.original_positions > 0 ? defaults.original_positions : max_positions);
  rotary.scaling =
      ReadScaling(scaling, original, max_positions, rotary.dimensions, defaults.yarn_is_longrope);
  config.Adopt(scaling.Finish());
  if (rotary.dimensions < 2 || rotary.dimensions > head_size || rotary.dimensions % 2 != 0) {
    config.Invalid(fmt::format("{} of {} dimensions of a head turn; rotary positions need pairs",
                               rotary.dimensions, head_size));
  }
  return rotary;
}

std::int64_t UsablePositions(const Rotary& rotary, std::int64_t max_positions) {
  if (!rotary.scaling || rotary.scaling->kind != Kind::kDynamic) return max_positions;
  constexpr double kMost = 1 << 30;
  return static_cast<std::int64_t>(
      std::min(static_cast<double>(max_positions) * rotary.scaling->factor, kMost));
}

}  // namespace teq::model_info
