#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "worker/engine/text/tokenizer.h"

namespace teq::text {

/// A token for each byte, 300 before a text and 301 after it.
class ByteTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return ids;
  }
  const std::vector<std::int32_t>& prefix() const override { return prefix_; }
  const std::vector<std::int32_t>& suffix() const override { return suffix_; }
  std::int64_t vocabulary_size() const override { return 302; }

 private:
  std::vector<std::int32_t> prefix_ = {300};
  std::vector<std::int32_t> suffix_ = {301};
};

}  // namespace teq::text
