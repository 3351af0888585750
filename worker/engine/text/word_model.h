#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"

namespace teq::text {

/// Lets a map with string keys be searched by a view.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>{}(text);
  }
};

using Vocabulary = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

/// The last stage of a tokenizer.json: words to ids. Thread-safe.
class WordModel {
 public:
  virtual ~WordModel() = default;

  /// Appends the ids of a word of valid UTF-8. INVALID_TOKENIZER where the model has no id for it.
  [[nodiscard]] virtual absl::Status Encode(std::string_view word,
                                            std::vector<std::int32_t>& ids) const = 0;

  [[nodiscard]] virtual const Vocabulary& vocabulary() const = 0;
};

/// From tokenizer.json's `model`: BPE or Unigram; others are refused by name.
[[nodiscard]] absl::StatusOr<std::unique_ptr<const WordModel>> ParseWordModel(
    const JsonPart& model);

}  // namespace teq::text
