#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/tokenizer.h"
#include "worker/engine/text/tokenizer_config.h"

namespace teq::text {

/// The tokenizer of a tokenizer.json whose model is BPE or Unigram, as Hugging Face's tokenizers
/// run it: added tokens, normalizer, pre-tokenizer, model. Special tokens at the ends are those of
/// the file's post_processor, unless it has none, or tokenizer_config.json gives add_bos_token or
/// add_eos_token and no class but one that follows them (Llama's, CodeLlama's, Gemma's, Cohere's,
/// GPT-NeoX's); then those flags decide. The first four follow them always, and without
/// add_bos_token they add it. Invalid UTF-8 becomes U+FFFD, as Python's errors="replace".
[[nodiscard]] absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizerJson(
    const std::filesystem::path& file, const TokenizerConfig& config);

/// The same of a document that says what a tokenizer.json would.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(
    const JsonPart& document, const TokenizerConfig& config);

}  // namespace teq::text
