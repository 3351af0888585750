#include "worker/engine/text/tokenizer.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/data_error.h"
#include "worker/engine/text/sentencepiece_tokenizer.h"
#include "worker/engine/text/tokenizer_config.h"
#include "worker/engine/text/tokenizer_json.h"
#include "worker/engine/text/vocabulary_files.h"

namespace teq::text {
namespace {

absl::StatusOr<std::unique_ptr<Tokenizer>> Open(const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(const auto config, ReadTokenizerConfig(directory));
  std::error_code error;
  const auto json = directory / "tokenizer.json";
  if (std::filesystem::exists(json, error)) return OpenTokenizerJson(json, config);
  const auto model = directory / "tokenizer.model";
  if (std::filesystem::exists(model, error)) return OpenSentencePieceTokenizer(model, config);
  const bool has_vocabulary = std::filesystem::exists(directory / "vocab.json", error);
  if (has_vocabulary && std::filesystem::exists(directory / "merges.txt", error)) {
    return OpenVocabularyFiles(directory, config);
  }
  return Error(absl::StatusCode::kNotFound, "INVALID_TOKENIZER",
               fmt::format("holds neither tokenizer.json, nor tokenizer.model, nor vocab.json with "
                           "merges.txt{}; copy the tokenizer's files beside the weights",
                           has_vocabulary ? " (only vocab.json)" : ""));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::filesystem::path& directory) {
  auto tokenizer = Open(directory);
  if (!tokenizer.ok()) return WithContext(tokenizer.status(), directory.string());
  return tokenizer;
}

absl::StatusOr<std::vector<std::int32_t>> EncodeText(const Tokenizer& tokenizer,
                                                     std::string_view reason,
                                                     std::string_view where, std::string_view text,
                                                     std::int64_t vocabulary_size) {
  auto ids = tokenizer.Encode(text);
  if (!ids.ok()) return WithContext(ids.status(), where);
  for (const auto* part : {&tokenizer.prefix(), &std::as_const(*ids)}) {
    const auto beyond = std::ranges::find_if(
        *part, [vocabulary_size](std::int32_t id) { return id >= vocabulary_size; });
    if (beyond == part->end()) continue;
    return DataError(reason, where,
                     fmt::format("the tokenizer gives the id {}, but the model has only {} tokens; "
                                 "it belongs to another model",
                                 *beyond, vocabulary_size));
  }
  return ids;
}

}  // namespace teq::text
