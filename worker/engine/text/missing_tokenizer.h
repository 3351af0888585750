#pragma once

#include <utility>

#include "worker/engine/text/tokenizer.h"

namespace teq::text {

/// Stands in for the tokenizer of a checkpoint that has none: data of ids needs none, and text
/// gives the error that opening it gave.
class MissingTokenizer final : public Tokenizer {
 public:
  explicit MissingTokenizer(absl::Status error) : error_(std::move(error)) {}

  [[nodiscard]] absl::StatusOr<std::vector<std::int32_t>> Encode(
      std::string_view /*text*/) const override {
    return error_;
  }
  [[nodiscard]] const std::vector<std::int32_t>& prefix() const override { return none_; }
  [[nodiscard]] const std::vector<std::int32_t>& suffix() const override { return none_; }
  [[nodiscard]] std::int64_t vocabulary_size() const override { return 0; }

 private:
  absl::Status error_;
  std::vector<std::int32_t> none_;
};

}  // namespace teq::text
