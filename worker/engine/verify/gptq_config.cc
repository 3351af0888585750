#include "worker/engine/verify/gptq_config.h"

#include <algorithm>
#include <cctype>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

absl::Status ReadBool(const Json& json, std::string_view key, bool& value) {
  const auto found = json.find(key);
  if (found == json.end()) return absl::OkStatus();
  if (!found->is_boolean()) return BadSetting(json, key, "true or false");
  value = found->get<bool>();
  return absl::OkStatus();
}

/// Reads the keys that a layer's claim has; those that are absent keep their value.
absl::Status ReadClaim(const Json& json, LayerClaim& claim) {
  if (const auto bits = json.find("bits"); bits != json.end()) {
    if (*bits != 2 && *bits != 3 && *bits != 4 && *bits != 8) {
      return BadSetting(json, "bits", "2, 3, 4 or 8");
    }
    claim.bits = bits->get<int>();
  }
  if (const auto group = json.find("group_size"); group != json.end()) {
    if (!group->is_number_integer() ||
        (group->get<std::int64_t>() < 1 && group->get<std::int64_t>() != -1)) {
      return BadSetting(json, "group_size", "-1 or a positive number");
    }
    claim.group_size = group->get<std::int64_t>();
  }
  return ReadBool(json, "sym", claim.symmetric);
}

bool StandsInBlock(std::string_view module) {
  std::size_t begin = 0;
  while (begin <= module.size()) {
    const std::size_t end = std::min(module.find('.', begin), module.size());
    const std::string_view part = module.substr(begin, end - begin);
    if (!part.empty() && std::all_of(part.begin(), part.end(),
                                     [](unsigned char c) { return std::isdigit(c) != 0; })) {
      return true;
    }
    begin = end + 1;
  }
  return false;
}

bool IsHead(std::string_view module) {
  return module == "lm_head" ||
         (module.size() > 8 && module.substr(module.size() - 8) == ".lm_head");
}

}  // namespace

absl::StatusOr<GptqConfig> GptqConfig::Parse(const Json& json) {
  if (!json.is_object()) return BadConfig("is missing or no object");
  if (json.value("quant_method", Json()) != "gptq") {
    return BadSetting(json, "quant_method", "\"gptq\"");
  }
  // Loaders take a missing key for v1; v2 stores another zero point.
  if (json.value("checkpoint_format", Json("gptq")) != "gptq") {
    return BadSetting(json, "checkpoint_format",
                      "\"gptq\", whose zero points are stored minus one");
  }
  if (json.value("pack_dtype", Json("int32")) != "int32") {
    return BadSetting(json, "pack_dtype", "\"int32\"");
  }
  for (const std::string_view key : {"bits", "group_size", "desc_act", "sym"}) {
    if (!json.contains(key)) return BadSetting(json, key, "a value, which loaders require");
  }
  GptqConfig config;
  config.base_.packed = true;
  TEQ_RETURN_IF_ERROR(ReadClaim(json, config.base_));
  TEQ_RETURN_IF_ERROR(ReadBool(json, "desc_act", config.desc_act_));
  TEQ_RETURN_IF_ERROR(ReadBool(json, "lm_head", config.lm_head_));
  if (const auto rules = json.find("dynamic"); rules != json.end() && !rules->is_null()) {
    if (!rules->is_object()) return BadSetting(json, "dynamic", "an object of rules");
    for (const auto& [key, settings] : rules->items()) {
      TEQ_RETURN_IF_ERROR(config.AddRule(key, settings));
    }
  }
  return config;
}

absl::Status GptqConfig::AddRule(const std::string& key, const Json& settings) {
  if (!settings.is_object()) {
    return BadConfig(
        fmt::format("dynamic rule {} is {}; expected an object", key, settings.dump()));
  }
  const bool skips = key.starts_with("-:");
  const std::string_view expression =
      std::string_view(key).substr(skips || key.starts_with("+:") ? 2 : 0);
  absl::StatusOr<NamePattern> pattern = NamePattern::Parse(expression);
  if (!pattern.ok()) {
    return BadConfig(
        fmt::format("dynamic rule {}: {}", key, std::string(pattern.status().message())));
  }
  Rule rule{*std::move(pattern), base_};
  rule.claim.packed = !skips;
  for (const auto& [name, value] : settings.items()) {
    if (name != "bits" && name != "group_size" && name != "sym") {
      return BadConfig(
          fmt::format("dynamic rule {} sets {} to {}; only bits, group_size and sym may differ",
                      key, name, value.dump()));
    }
  }
  TEQ_RETURN_IF_ERROR(WithContext(ReadClaim(settings, rule.claim), "dynamic rule " + key));
  rules_.push_back(std::move(rule));
  return absl::OkStatus();
}

LayerClaim GptqConfig::ClaimOf(std::string_view module) const {
  for (const Rule& rule : rules_) {
    if (rule.pattern.MatchesStart(module)) return rule.claim;
  }
  LayerClaim claim = base_;
  claim.packed = StandsInBlock(module) || (lm_head_ && IsHead(module));
  return claim;
}

}  // namespace teq::verify
