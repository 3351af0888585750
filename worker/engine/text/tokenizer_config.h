#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/text/added_tokens.h"

namespace teq::text {

/// What tokenizer_config.json says that changes ids. All is empty where the file is absent.
struct TokenizerConfig {
  std::string tokenizer_class;
  std::string bos_token;
  std::string eos_token;
  std::string unk_token;
  std::string pad_token;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_prefix_space;
  std::optional<bool> legacy;
  std::vector<AddedToken> added_tokens;  // of added_tokens_decoder
};

/// INVALID_ARGUMENT, reason INVALID_TOKENIZER.
[[nodiscard]] absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(
    const std::filesystem::path& directory);

}  // namespace teq::text
