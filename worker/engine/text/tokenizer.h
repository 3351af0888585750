#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace teq::text {

/// Text to token ids, exactly as the model's own tokenizer. Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of `text` (UTF-8) without special tokens at its ends; added tokens inside the text are
  /// recognised. Invalid UTF-8 is handled as the reference implementation of the kind does.
  [[nodiscard]] virtual absl::StatusOr<std::vector<std::int32_t>> Encode(
      std::string_view text) const = 0;

  /// What the tokenizer puts before and after a text: its post-processor's template, or bos and eos
  /// as tokenizer_config.json says.
  [[nodiscard]] virtual const std::vector<std::int32_t>& prefix() const = 0;
  [[nodiscard]] virtual const std::vector<std::int32_t>& suffix() const = 0;

  /// Ids are below this.
  [[nodiscard]] virtual std::int64_t vocabulary_size() const = 0;
  /// Ids of all but the added tokens are below this. Some checkpoints have no embedding for a token
  /// that was added, such as Gemma 3's for images.
  [[nodiscard]] virtual std::int64_t base_vocabulary_size() const { return vocabulary_size(); }
};

/// The tokenizer of a checkpoint directory: tokenizer.json if present, else tokenizer.model, else
/// GPT-2's vocab.json and merges.txt.
///
/// NOT_FOUND or INVALID_ARGUMENT, reason INVALID_TOKENIZER: names the file, the part and the value
/// that is not supported ("model.type WordPiece"), and what is.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(
    const std::filesystem::path& directory);

/// A text's ids, without the tokenizer's prefix. Errors of the tokenizer, with `where`; one with
/// `reason` where it gives an id, of the prefix too, that the model does not have.
[[nodiscard]] absl::StatusOr<std::vector<std::int32_t>> EncodeText(const Tokenizer& tokenizer,
                                                                   std::string_view reason,
                                                                   std::string_view where,
                                                                   std::string_view text,
                                                                   std::int64_t vocabulary_size);

}  // namespace teq::text
