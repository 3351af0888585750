#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/engine/verify/layer_claim.h"

namespace teq::verify {

/// The `quantization_config` of a GPTQ checkpoint, as loaders read it: `dynamic` rules are regular
/// expressions matched from a name's start, in file order, and the first that matches decides.
/// Thread-safe.
class GptqConfig {
 public:
  /// DATA_LOSS, reason VERIFY_FAILED: names the key and its value.
  [[nodiscard]] static absl::StatusOr<GptqConfig> Parse(const nlohmann::ordered_json& json);

  /// The claim about a linear layer. Linear layers outside the model's blocks (names without a
  /// number) are float, but for the head where `lm_head` is true.
  [[nodiscard]] LayerClaim ClaimOf(std::string_view module) const;

  /// Whether columns may be assigned to groups in any order.
  [[nodiscard]] bool desc_act() const { return desc_act_; }

 private:
  struct Rule {
    NamePattern pattern;
    LayerClaim claim;
  };

  GptqConfig() = default;
  [[nodiscard]] absl::Status AddRule(const std::string& key,
                                     const nlohmann::ordered_json& settings);

  LayerClaim base_;
  bool desc_act_ = false;
  bool lm_head_ = false;
  std::vector<Rule> rules_;
};

}  // namespace teq::verify
