#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace teq {

/// What an override matches: a module's exact name, or `re:` and a PCRE2 pattern for the whole
/// name. Immutable, so safe to share between threads.
class ModulePattern {
 public:
  /// INVALID_ARGUMENT with what the pattern compiler says and where.
  [[nodiscard]] static absl::StatusOr<ModulePattern> Parse(std::string_view match);

  /// False as well where the pattern needs more steps than a module's name can be worth.
  [[nodiscard]] bool Matches(std::string_view name) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };

  ModulePattern() = default;

  std::string exact_;
  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;  // null: compare with exact_
};

}  // namespace teq
