#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/engine/pack/gguf_container.h"

namespace teq::pack {

/// A token as GGUF lists it.
struct GgufToken {
  // By llama.cpp's numbers. Control and user-defined tokens are found in a text before it is cut.
  enum class Type : std::int32_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };
  std::string text;
  float score = 0;  // of "llama": of two neighbours that form tokens, the higher one forms first
  Type type = Type::kNormal;
};

struct GgufVocabulary {
  std::vector<GgufToken> tokens;    // by id, holes filled with unused ones
  std::vector<std::string> merges;  // of "gpt2": two parts with a space between, by rank
};

/// The vocabulary of a tokenizer.json whose model is byte-level BPE.
[[nodiscard]] absl::StatusOr<GgufVocabulary> ByteLevelVocabulary(const nlohmann::json& document);

/// The vocabulary of a tokenizer.json whose model is SentencePiece's BPE. A score is the negated
/// rank of the merge that forms a token. FORMAT_CANNOT_HOLD where scores do not say all that the
/// merges say: two neighbours that are a token must be a merge, and all merges that form a token
/// must follow one another.
[[nodiscard]] absl::StatusOr<GgufVocabulary> MetaspaceVocabulary(const nlohmann::json& document);

/// Adds the tokenizer in `directory`: its kind as model_info::FindGgufTokenizer says, tokens filled
/// up to `vocabulary_size`, special ids, what is put around a text, and the chat template.
/// FORMAT_CANNOT_HOLD, INVALID_TOKENIZER.
[[nodiscard]] absl::Status DescribeVocabulary(const std::filesystem::path& directory,
                                              std::int64_t vocabulary_size, GgufMetadata& metadata);

}  // namespace teq::pack
