#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace teq::model_info {

/// What a tokenizer.model says of its vocabulary, in the terms that GGUF took over from it.
struct SentencePieces {
  struct Piece {
    std::string text;
    float score = 0;
    int type = 1;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  };
  std::vector<Piece> pieces;  // by id
  bool bpe = false;           // not unigram, word or char
  bool normalizes = false;    // changes a text, beyond the space before it
  bool space_prefix = true;   // puts a space before a text
};

/// Reads a SentencePiece model. INVALID_ARGUMENT, INVALID_TOKENIZER, where the file is none.
[[nodiscard]] absl::StatusOr<SentencePieces> ReadSentencePieces(const std::filesystem::path& file);

}  // namespace teq::model_info
