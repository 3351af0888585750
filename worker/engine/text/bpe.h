#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/word_model.h"

namespace teq::text {

/// Byte-pair encoding as Hugging Face's tokenizers do it: of all neighbours the pair of the lowest
/// rank is merged first, the leftmost of equals. Thread-safe.
class Bpe : public WordModel {
 public:
  /// From tokenizer.json's `model`. A merge whose parts or result are not in the vocabulary,
  /// dropout, prefixes and suffixes of subwords are refused.
  [[nodiscard]] static absl::StatusOr<Bpe> Parse(const JsonPart& model);

  /// Appends the ids of a word of valid UTF-8. O(n log n) in its length. A character that neither
  /// the vocabulary, nor its bytes, nor an unknown token holds is dropped.
  [[nodiscard]] absl::Status Encode(std::string_view word,
                                    std::vector<std::int32_t>& ids) const override;

  [[nodiscard]] const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  struct Merge {
    std::int32_t rank = 0;
    std::int32_t result = 0;
  };

  [[nodiscard]] absl::Status AddMerge(const JsonPart& part, std::string_view left,
                                      std::string_view right);
  [[nodiscard]] absl::Status ParseMerges(const JsonPart& merges);
  [[nodiscard]] const Merge* Find(std::int32_t left, std::int32_t right) const;
  [[nodiscard]] std::optional<std::int32_t> FindToken(std::string_view token) const;
  [[nodiscard]] bool AppendBytes(std::string_view character, std::vector<std::int32_t>& ids) const;
  [[nodiscard]] std::vector<std::int32_t> Characters(std::string_view word) const;
  void MergeAll(const std::vector<std::int32_t>& symbols, std::vector<std::int32_t>& ids) const;

  Vocabulary vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by both ids
  std::int32_t next_rank_ = 0;
  std::optional<std::int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace teq::text
