#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace teq::text {

/// SentencePiece's precompiled normalization rules: what some strings are replaced by. A table of
/// theirs is a double-array trie (Darts-clone's) and the replacements, each ended by a NUL.
/// Thread-safe.
class Charsmap {
 public:
  /// From the bytes of a model's `precompiled_charsmap`. INVALID_ARGUMENT without a reason where
  /// they are no table.
  [[nodiscard]] static absl::StatusOr<Charsmap> Create(std::string_view bytes);

  /// `text`, valid UTF-8, normalized as Hugging Face's tokenizers do it: a grapheme cluster of
  /// fewer than 6 bytes becomes what its shortest known prefix is replaced by, the rest of it
  /// included; where none is known, and in longer clusters, every character goes by itself.
  [[nodiscard]] std::string Normalize(std::string_view text) const;

 private:
  Charsmap(std::vector<std::uint32_t> units, std::string replacements)
      : units_(std::move(units)), replacements_(std::move(replacements)) {}

  [[nodiscard]] std::optional<std::string_view> Find(std::string_view text) const;

  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

/// The bytes that base64 text stands for; nothing where it is not base64.
[[nodiscard]] std::optional<std::string> DecodeBase64(std::string_view text);

}  // namespace teq::text
