#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/engine/verify/layer_claim.h"

namespace teq::verify {

/// The `quantization_config` of a pack-quantized checkpoint of compressed-tensors, as loaders read
/// it: `ignore` and the groups' `targets` are module names, `re:` and an expression that is matched
/// from a name's start, or the class Linear; names and expressions go before
/// the class.
/// Thread-safe.
class CompressedTensorsConfig {
 public:
  /// DATA_LOSS, reason VERIFY_FAILED: names the key and its value.
  [[nodiscard]] static absl::StatusOr<CompressedTensorsConfig> Parse(
      const nlohmann::ordered_json& json);

  /// The claim about a linear layer. DATA_LOSS, VERIFY_FAILED, where two groups fit equally well:
  /// loaders would disagree.
  [[nodiscard]] absl::StatusOr<LayerClaim> ClaimOf(std::string_view module) const;

 private:
  /// What is compared with a module's name.
  struct Target {
    std::string name;
    std::optional<NamePattern> pattern;

    [[nodiscard]] bool Matches(std::string_view module) const;
  };
  struct Group {
    std::string name;
    LayerClaim claim;
    std::vector<Target> targets;
    bool all_linear = false;
  };

  CompressedTensorsConfig() = default;
  [[nodiscard]] static absl::StatusOr<Target> ParseTarget(const nlohmann::ordered_json& json);
  [[nodiscard]] absl::Status AddGroup(const std::string& name, const nlohmann::ordered_json& json);

  std::vector<Group> groups_;
  std::vector<Target> ignored_;
};

}  // namespace teq::verify
