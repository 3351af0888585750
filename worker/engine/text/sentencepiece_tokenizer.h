#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/engine/text/tokenizer.h"
#include "worker/engine/text/tokenizer_config.h"

namespace teq::text {

/// The tokenizer of a tokenizer.model by sentencepiece itself, with what Hugging Face's
/// LlamaTokenizer adds: bos at the start unless add_bos_token is false, eos at the end if
/// add_eos_token is true, and bos, eos, unk and added_tokens_decoder's tokens recognised inside a
/// text. The text between two such tokens is encoded on its own, with the model's own prefix space;
/// where LlamaTokenizer's `legacy` is false, with one at the whole text's start only, and with none
/// if add_prefix_space is false. Invalid UTF-8 becomes U+FFFD.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Tokenizer>> OpenSentencePieceTokenizer(
    const std::filesystem::path& file, const TokenizerConfig& config);

}  // namespace teq::text
