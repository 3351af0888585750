#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace teq::model_info {

/// How a GGUF file names a checkpoint's tokenizer.
struct GgufTokenizer {
  enum class Source { kTokenizerJson, kSentencePiece, kVocabularyFiles };
  Source source = Source::kTokenizerJson;
  // tokenizer.ggml.model: "gpt2", byte-level BPE by merges, or "llama", SentencePiece's BPE by
  // scores.
  std::string model;
  // tokenizer.ggml.pre: how a text is cut into words.
  std::string pre;
  bool space_prefix = false;  // of "llama": a space is put before every text
};

/// The kind of the tokenizer in `directory`, found as text::OpenTokenizer finds it. A kind is
/// chosen where llama.cpp gives the tokenizer's own ids: for "gpt2", by the stages of
/// tokenizer.json's pre_tokenizer.
///
/// Three differences are let pass, as llama.cpp's own converter does: NFC is not applied by
/// llama.cpp, which matters for texts that are not yet in that form; after a special token inside a
/// text, "llama" puts a space also where tokenizer.json's prepend_scheme is "first"; and "falcon"
/// leaves a space before digits, which merges learned with Falcon's own stages never join.
///
/// INVALID_ARGUMENT, FORMAT_CANNOT_HOLD: names the stage that no kind has, and those that are
/// known. INVALID_TOKENIZER where a file is broken.
[[nodiscard]] absl::StatusOr<GgufTokenizer> FindGgufTokenizer(
    const std::filesystem::path& directory);

}  // namespace teq::model_info
