#include "worker/engine/text/tokenizer_config.h"

#include <charconv>
#include <string_view>
#include <system_error>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/json_part.h"

namespace teq::text {
namespace {

constexpr std::string_view kFile = "tokenizer_config.json";

// A token is written as text or as an object with `content`.
absl::StatusOr<std::string> ParseToken(const JsonPart& part) {
  if (part["content"].present()) return part["content"].String();
  return part.StringOr("");
}

absl::StatusOr<std::optional<bool>> ParseFlag(const JsonPart& part) {
  if (!part.present()) return std::optional<bool>();
  TEQ_ASSIGN_OR_RETURN(const bool flag, part.BoolOr(false));
  return std::optional<bool>(flag);
}

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const JsonPart& part) {
  std::vector<AddedToken> tokens;
  if (!part.present()) return tokens;
  TEQ_ASSIGN_OR_RETURN(const auto* object, part.Object());
  for (const auto& [key, value] : *object) {
    TEQ_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(part[key]));
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (error != std::errc() || end != key.data() + key.size() || token.id < 0) {
      return part.Invalid(fmt::format("has the key \"{}\", which is no token id", key));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& directory) {
  std::error_code error;
  const auto file = directory / kFile;
  if (!std::filesystem::exists(file, error)) return TokenizerConfig{};
  TEQ_ASSIGN_OR_RETURN(const auto json, ReadJsonFile(file));
  const JsonPart root(json, kFile);
  TEQ_RETURN_IF_ERROR(root.Object().status());
  TokenizerConfig config;
  TEQ_ASSIGN_OR_RETURN(config.tokenizer_class, root["tokenizer_class"].StringOr(""));
  TEQ_ASSIGN_OR_RETURN(config.bos_token, ParseToken(root["bos_token"]));
  TEQ_ASSIGN_OR_RETURN(config.eos_token, ParseToken(root["eos_token"]));
  TEQ_ASSIGN_OR_RETURN(config.unk_token, ParseToken(root["unk_token"]));
  TEQ_ASSIGN_OR_RETURN(config.pad_token, ParseToken(root["pad_token"]));
  TEQ_ASSIGN_OR_RETURN(config.add_bos_token, ParseFlag(root["add_bos_token"]));
  TEQ_ASSIGN_OR_RETURN(config.add_eos_token, ParseFlag(root["add_eos_token"]));
  TEQ_ASSIGN_OR_RETURN(config.add_prefix_space, ParseFlag(root["add_prefix_space"]));
  TEQ_ASSIGN_OR_RETURN(config.legacy, ParseFlag(root["legacy"]));
  TEQ_ASSIGN_OR_RETURN(config.added_tokens, ParseAddedTokens(root["added_tokens_decoder"]));
  return config;
}

}  // namespace teq::text
