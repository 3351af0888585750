#define PCRE2_CODE_UNIT_WIDTH 8

#include "proto/spec/module_pattern.h"

#include <pcre2.h>

#include <array>
#include <cstdint>
#include <string>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq {
namespace {

constexpr std::string_view kPrefix = "re:";
constexpr std::uint32_t kMatchLimit = 1'000'000;

PCRE2_SPTR Bytes(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string CompilerMessage(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

void ModulePattern::FreeCode::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

absl::StatusOr<ModulePattern> ModulePattern::Parse(std::string_view match) {
  ModulePattern pattern;
  if (!match.starts_with(kPrefix)) {
    pattern.exact_ = match;
    return pattern;
  }
  const std::string_view source = match.substr(kPrefix.size());
  int error = 0;
  std::size_t offset = 0;
  pattern.code_.reset(pcre2_compile(Bytes(source), source.size(),
                                    PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &offset,
                                    nullptr));
  if (pattern.code_ == nullptr) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_PATTERN",
                 fmt::format("\"{}\" is not a PCRE2 pattern: {} at offset {}", source,
                             CompilerMessage(error), offset));
  }
  return pattern;
}

bool ModulePattern::Matches(std::string_view name) const {
  if (code_ == nullptr) return name == exact_;
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  if (data == nullptr || context == nullptr) return false;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  return pcre2_match(code_.get(), Bytes(name), name.size(), 0, 0, data.get(), context.get()) >= 0;
}

}  // namespace teq
