#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/text/word_model.h"

namespace teq::text {

/// The Unigram model as Hugging Face's tokenizers run it: the cut of a word into pieces whose
/// scores' sum is the largest (Kudo 2018, by Viterbi's algorithm). A character that is no piece
/// counts as one of 10 below the lowest score; neighbours of such are one unknown token, or their
/// bytes. Thread-safe.
class Unigram : public WordModel {
 public:
  [[nodiscard]] static absl::StatusOr<Unigram> Parse(const JsonPart& model);

  [[nodiscard]] absl::Status Encode(std::string_view word,
                                    std::vector<std::int32_t>& ids) const override;

  [[nodiscard]] const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  using Node = std::uint32_t;

  // The best way to a place in a word: the piece that ends there.
  struct Step {
    double score = 0;
    std::int32_t id = 0;
    std::optional<std::size_t> begin;
  };

  Unigram() = default;
  void Insert(std::string_view piece, std::int32_t id);
  [[nodiscard]] absl::StatusOr<std::vector<Step>> BestSteps(std::string_view word) const;
  void AppendPiece(std::string_view piece, std::vector<std::int32_t>& ids) const;
  [[nodiscard]] bool AppendBytes(std::string_view piece, std::vector<std::int32_t>& ids) const;

  Vocabulary vocabulary_;
  std::vector<double> scores_;                     // by id
  std::unordered_map<std::uint64_t, Node> edges_;  // of the pieces' trie, by node and byte
  std::vector<std::optional<std::int32_t>> ends_;  // by node: the piece that ends there
  std::optional<std::int32_t> unknown_;
  double unknown_score_ = 0;
  bool byte_fallback_ = false;
};

}  // namespace teq::text
