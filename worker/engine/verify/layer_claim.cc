#include "worker/engine/verify/layer_claim.h"

#include "fmt/format.h"
#include "worker/engine/verify/fields.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pcre2.h"

namespace teq::verify {

absl::Status BadConfig(std::string_view message) {
  return Bad("config.json: quantization_config", message);
}

absl::Status BadSetting(const nlohmann::ordered_json& json, std::string_view key,
                        std::string_view expected) {
  const auto found = json.find(key);
  return BadConfig(fmt::format("{} is {}; expected {}", key,
                               found == json.end() ? "missing" : found->dump(), expected));
}

absl::StatusOr<NamePattern> NamePattern::Parse(std::string_view expression) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                    PCRE2_UTF | PCRE2_ANCHORED, &error, &offset, nullptr);
  if (code == nullptr) return Bad(fmt::format("no regular expression (at character {})", offset));
  // Each expression meets every layer. Where no code can be made for the processor, the expression
  // is interpreted.
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  NamePattern pattern;
  pattern.code_ = {code, [](pcre2_code* compiled) { pcre2_code_free(compiled); }};
  return pattern;
}

bool NamePattern::MatchesStart(std::string_view name) const {
  pcre2_match_data* match = pcre2_match_data_create_from_pattern(code_.get(), nullptr);
  const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()),
                                 name.size(), 0, 0, match, nullptr);
  pcre2_match_data_free(match);
  return result >= 0;
}

}  // namespace teq::verify
