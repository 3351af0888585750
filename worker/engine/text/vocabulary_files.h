#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/engine/text/tokenizer.h"
#include "worker/engine/text/tokenizer_config.h"

namespace teq::text {

/// The tokenizer of a directory that has no tokenizer.json but GPT-2's vocab.json and merges.txt
/// (GPT-2, OPT, GPT-J, GPT-Neo): byte-level BPE with GPT-2's pattern. Added tokens are those of
/// added_tokens.json and tokenizer_config.json, and its bos, eos, unk and pad tokens; of the first
/// three <|endoftext|> stands for what is not given, as in transformers' class. Only where
/// tokenizer_class is GPT2Tokenizer, or is not given and config.json's model_type is one of those:
/// others use the same two files for something else.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Tokenizer>> OpenVocabularyFiles(
    const std::filesystem::path& directory, const TokenizerConfig& config);

/// The same files as a tokenizer.json would have them. Errors as OpenVocabularyFiles.
[[nodiscard]] absl::StatusOr<nlohmann::json> ReadVocabularyFiles(
    const std::filesystem::path& directory, const TokenizerConfig& config);

}  // namespace teq::text
