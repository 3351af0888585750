#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

struct pcre2_real_code_8;

namespace teq::verify {

/// What a quantization_config claims about one module.
struct LayerClaim {
  bool packed = false;
  int bits = 0;
  std::int64_t group_size = 0;  // -1: the whole row
  bool symmetric = false;
};

/// What is wrong with a quantization_config; DATA_LOSS, VERIFY_FAILED. The second says "key is
/// value; expected ...".
[[nodiscard]] absl::Status BadConfig(std::string_view message);
[[nodiscard]] absl::Status BadSetting(const nlohmann::ordered_json& json, std::string_view key,
                                      std::string_view expected);

/// A regular expression of a quantization_config, compared as Python's re.match does: from the
/// name's start, to anywhere. Copies share the compiled expression. Thread-safe.
class NamePattern {
 public:
  /// DATA_LOSS, reason VERIFY_FAILED: says at which character the expression is wrong.
  [[nodiscard]] static absl::StatusOr<NamePattern> Parse(std::string_view expression);

  [[nodiscard]] bool MatchesStart(std::string_view name) const;

 private:
  std::shared_ptr<const pcre2_real_code_8> code_;
};

}  // namespace teq::verify
