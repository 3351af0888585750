#include "worker/engine/verify/compressed_tensors_config.h"

#include <algorithm>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<LayerClaim> ReadWeights(const Json& json) {
  if (!json.is_object()) return BadConfig("weights is missing or no object");
  const Json bits = json.value("num_bits", Json());
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return BadSetting(json, "num_bits", "2, 3, 4 or 8");
  }
  if (json.value("type", Json()) != "int") return BadSetting(json, "type", "\"int\"");
  if (!json.value("symmetric", Json()).is_boolean()) {
    return BadSetting(json, "symmetric", "true or false");
  }
  if (json.value("dynamic", Json(false)) != false) return BadSetting(json, "dynamic", "false");
  if (!json.value("actorder", Json()).is_null()) return BadSetting(json, "actorder", "null");
  LayerClaim claim{.packed = true,
                   .bits = bits.get<int>(),
                   .group_size = -1,
                   .symmetric = json["symmetric"].get<bool>()};
  const Json group = json.value("group_size", Json());
  const Json strategy = json.value("strategy", Json());
  if (strategy == "channel") {
    if (!group.is_null()) return BadSetting(json, "group_size", "null, as strategy is channel");
    return claim;
  }
  if (strategy != "group") return BadSetting(json, "strategy", "\"group\" or \"channel\"");
  if (!group.is_number_integer() || group < 1) {
    return BadSetting(json, "group_size", "a positive number");
  }
  claim.group_size = group.get<std::int64_t>();
  return claim;
}

absl::Status CheckNull(const Json& json, std::string_view key) {
  return json.value(key, Json()).is_null() ? absl::OkStatus() : BadSetting(json, key, "null");
}

}  // namespace

bool CompressedTensorsConfig::Target::Matches(std::string_view module) const {
  return pattern ? pattern->MatchesStart(module) : name == module;
}

absl::StatusOr<CompressedTensorsConfig::Target> CompressedTensorsConfig::ParseTarget(
    const Json& json) {
  if (!json.is_string()) return BadConfig(fmt::format("{} is no module name", json.dump()));
  Target target{.name = json.get<std::string>(), .pattern = std::nullopt};
  constexpr std::string_view kExpression = "re:";
  if (!target.name.starts_with(kExpression)) return target;
  absl::StatusOr<NamePattern> pattern =
      NamePattern::Parse(std::string_view(target.name).substr(kExpression.size()));
  if (!pattern.ok()) {
    return BadConfig(fmt::format("{}: {}", target.name, std::string(pattern.status().message())));
  }
  target.pattern = *std::move(pattern);
  return target;
}

absl::StatusOr<CompressedTensorsConfig> CompressedTensorsConfig::Parse(const Json& json) {
  if (!json.is_object()) return BadConfig("is missing or no object");
  for (const auto& [key, value] :
       {std::pair("quant_method", "compressed-tensors"), std::pair("format", "pack-quantized"),
        std::pair("quantization_status", "compressed")}) {
    if (json.value(key, Json()) != value) {
      return BadSetting(json, key, fmt::format("\"{}\"", value));
    }
  }
  TEQ_RETURN_IF_ERROR(CheckNull(json, "kv_cache_scheme"));
  CompressedTensorsConfig config;
  const Json ignored = json.value("ignore", Json::array());
  if (!ignored.is_array()) return BadSetting(json, "ignore", "a list of modules");
  for (const Json& entry : ignored) {
    TEQ_ASSIGN_OR_RETURN(Target target, ParseTarget(entry));
    config.ignored_.push_back(std::move(target));
  }
  const Json groups = json.value("config_groups", Json());
  if (!groups.is_object() || groups.empty()) {
    return BadSetting(json, "config_groups", "an object of groups");
  }
  for (const auto& [name, group] : groups.items()) {
    const absl::Status status = config.AddGroup(name, group);
    if (!status.ok()) return WithContext(status, name);
  }
  return config;
}

absl::Status CompressedTensorsConfig::AddGroup(const std::string& name, const Json& json) {
  if (!json.is_object()) return BadConfig("is no object");
  TEQ_RETURN_IF_ERROR(CheckNull(json, "input_activations"));
  TEQ_RETURN_IF_ERROR(CheckNull(json, "output_activations"));
  Group group{.name = name, .claim = {}, .targets = {}};
  TEQ_ASSIGN_OR_RETURN(group.claim, ReadWeights(json.value("weights", Json())));
  const Json targets = json.value("targets", Json());
  if (!targets.is_array() || targets.empty()) {
    return BadSetting(json, "targets", "a list of modules");
  }
  for (const Json& entry : targets) {
    if (entry == "Linear") {
      group.all_linear = true;
      continue;
    }
    TEQ_ASSIGN_OR_RETURN(Target target, ParseTarget(entry));
    group.targets.push_back(std::move(target));
  }
  groups_.push_back(std::move(group));
  return absl::OkStatus();
}

absl::StatusOr<LayerClaim> CompressedTensorsConfig::ClaimOf(std::string_view module) const {
  const auto matches = [&](const Target& target) { return target.Matches(module); };
  if (std::any_of(ignored_.begin(), ignored_.end(), matches)) return LayerClaim();
  std::vector<const Group*> named;
  std::vector<const Group*> by_class;
  for (const Group& group : groups_) {
    if (std::any_of(group.targets.begin(), group.targets.end(), matches)) named.push_back(&group);
    if (group.all_linear) by_class.push_back(&group);
  }
  const std::vector<const Group*>& fitting = named.empty() ? by_class : named;
  if (fitting.size() > 1) {
    return BadConfig(fmt::format("{} and {} both fit", fitting[0]->name, fitting[1]->name));
  }
  return fitting.empty() ? LayerClaim() : fitting[0]->claim;
}

}  // namespace teq::verify
