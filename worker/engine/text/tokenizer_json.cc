#include "worker/engine/text/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/bpe.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/normalizer.h"
#include "worker/engine/text/piece.h"
#include "worker/engine/text/post_processor.h"
#include "worker/engine/text/pre_tokenizer.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

constexpr std::string_view kFile = "tokenizer.json";

// The stages of a tokenizer.json.
struct Pipeline {
  AddedTokenFinder raw_tokens;         // looked for in the text as it is
  AddedTokenFinder normalized_tokens;  // and after normalization
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  Bpe model;
  Affixes affixes;
  std::int64_t vocabulary_size = 0;
};

absl::Status Normalize(const std::vector<NormalizerStep>& steps, Piece& piece) {
  for (const NormalizerStep& step : steps) TEQ_RETURN_IF_ERROR(step(piece));
  return absl::OkStatus();
}

// Words repeat in a text; each of the shorter ones is encoded once.
class WordCache {
 public:
  explicit WordCache(const Bpe& model) : model_(model) {}

  void Encode(const std::string& word, std::vector<std::int32_t>& ids) {
    if (word.size() > kMaxBytes) return model_.Encode(word, ids);
    auto found = words_.find(word);
    if (found == words_.end()) {
      if (words_.size() == kMaxWords) words_.clear();
      found = words_.emplace(word, std::vector<std::int32_t>()).first;
      model_.Encode(word, found->second);
    }
    ids.insert(ids.end(), found->second.begin(), found->second.end());
  }

 private:
  static constexpr std::size_t kMaxBytes = 256;
  static constexpr std::size_t kMaxWords = 100'000;

  const Bpe& model_;
  std::unordered_map<std::string, std::vector<std::int32_t>> words_;
};

class JsonTokenizer : public Tokenizer {
 public:
  explicit JsonTokenizer(Pipeline pipeline) : pipeline_(std::move(pipeline)) {}

  absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view text) const override {
    TEQ_ASSIGN_OR_RETURN(const auto pieces, Cut(RepairUtf8(text)));
    WordCache cache(pipeline_.model);
    std::vector<std::int32_t> ids;
    for (const Piece& piece : pieces) {
      if (piece.id) {
        ids.push_back(*piece.id);
      } else {
        cache.Encode(piece.text, ids);
      }
    }
    return ids;
  }

  const std::vector<std::int32_t>& prefix() const override { return pipeline_.affixes.prefix; }
  const std::vector<std::int32_t>& suffix() const override { return pipeline_.affixes.suffix; }
  std::int64_t vocabulary_size() const override { return pipeline_.vocabulary_size; }

 private:
  [[nodiscard]] absl::StatusOr<std::vector<Piece>> Cut(std::string text) const {
    std::vector<Piece> pieces = {{.text = std::move(text), .at_start = true}};
    TEQ_RETURN_IF_ERROR(pipeline_.raw_tokens.Split(pieces));
    for (Piece& piece : pieces) {
      if (!piece.id) TEQ_RETURN_IF_ERROR(Normalize(pipeline_.normalizer, piece));
    }
    TEQ_RETURN_IF_ERROR(pipeline_.normalized_tokens.Split(pieces));
    for (const PreTokenizerStep& step : pipeline_.pre_tokenizer) TEQ_RETURN_IF_ERROR(step(pieces));
    return pieces;
  }

  Pipeline pipeline_;
};

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const JsonPart& part,
                                                         const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  if (!part.present()) return tokens;
  TEQ_ASSIGN_OR_RETURN(const auto parts, part.List());
  for (const JsonPart& each : parts) {
    TEQ_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(each));
    TEQ_ASSIGN_OR_RETURN(token.id, each["id"].Id());
    const auto known = vocabulary.find(token.content);
    if (known != vocabulary.end() && known->second != token.id) {
      return each.Invalid(fmt::format("gives \"{}\" the id {}; model.vocab gives it {}",
                                      token.content, token.id, known->second));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// All tokens by content; their ids must be 0, 1, 2 and so on, each once.
absl::StatusOr<Vocabulary> WholeVocabulary(const Vocabulary& model,
                                           const std::vector<AddedToken>& added) {
  const auto invalid = [](std::string_view what) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
                 fmt::format("{}: {}", kFile, what));
  };
  Vocabulary all = model;
  for (const AddedToken& token : added) all.emplace(token.content, token.id);
  std::vector<const std::string*> by_id(all.size(), nullptr);
  for (const auto& [token, id] : all) {
    const auto index = static_cast<std::size_t>(id);
    if (index >= by_id.size()) {
      return invalid(
          fmt::format("token \"{}\" has the id {}, but there are only {} tokens: the ids "
                      "of model.vocab and added_tokens have gaps",
                      token, id, by_id.size()));
    }
    if (by_id[index] != nullptr) {
      return invalid(fmt::format("tokens \"{}\" and \"{}\" have the same id {}",
                                 std::min(token, *by_id[index]), std::max(token, *by_id[index]),
                                 id));
    }
    by_id[index] = &token;
  }
  return all;
}

bool AddsBosByDefault(std::string_view tokenizer_class) {
  constexpr std::array<std::string_view, 4> kClasses = {"LlamaTokenizer", "CodeLlamaTokenizer",
                                                        "GemmaTokenizer", "CohereTokenizer"};
  if (tokenizer_class.ends_with("Fast")) tokenizer_class.remove_suffix(4);
  return std::ranges::find(kClasses, tokenizer_class) != kClasses.end();
}

absl::Status AppendConfigToken(std::string_view flag, const std::string& token,
                               const Vocabulary& vocabulary, std::vector<std::int32_t>& ids) {
  const auto found = vocabulary.find(token);
  if (found == vocabulary.end()) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
        fmt::format("tokenizer_config.json: {} asks for the token \"{}\", which {} does not "
                    "have",
                    flag, token, kFile));
  }
  ids.push_back(found->second);
  return absl::OkStatus();
}

absl::StatusOr<Affixes> FindAffixes(const JsonPart& post_processor, const TokenizerConfig& config,
                                    const Vocabulary& vocabulary) {
  const bool flags_given = config.add_bos_token || config.add_eos_token;
  if (post_processor.present() && !flags_given) {
    TEQ_ASSIGN_OR_RETURN(auto affixes, ParsePostProcessor(post_processor));
    for (const auto* ids : {&affixes.prefix, &affixes.suffix}) {
      for (const std::int32_t id : *ids) {
        if (static_cast<std::size_t>(id) >= vocabulary.size()) {
          return post_processor.Invalid(
              fmt::format("adds the id {}; the vocabulary has {} tokens", id, vocabulary.size()));
        }
      }
    }
    return affixes;
  }
  Affixes affixes;
  const bool bos_by_default = AddsBosByDefault(config.tokenizer_class) && !config.bos_token.empty();
  if (config.add_bos_token.value_or(bos_by_default)) {
    TEQ_RETURN_IF_ERROR(
        AppendConfigToken("add_bos_token", config.bos_token, vocabulary, affixes.prefix));
  }
  if (config.add_eos_token.value_or(false)) {
    TEQ_RETURN_IF_ERROR(
        AppendConfigToken("add_eos_token", config.eos_token, vocabulary, affixes.suffix));
  }
  return affixes;
}

absl::StatusOr<Pipeline> ParsePipeline(const JsonPart& root, const TokenizerConfig& config) {
  TEQ_RETURN_IF_ERROR(root.Object().status());
  TEQ_ASSIGN_OR_RETURN(auto model, Bpe::Parse(root["model"]));
  TEQ_ASSIGN_OR_RETURN(auto normalizer, ParseNormalizer(root["normalizer"]));
  TEQ_ASSIGN_OR_RETURN(auto pre_tokenizer, ParsePreTokenizer(root["pre_tokenizer"]));
  TEQ_ASSIGN_OR_RETURN(const auto added,
                       ParseAddedTokens(root["added_tokens"], model.vocabulary()));
  TEQ_ASSIGN_OR_RETURN(const auto vocabulary, WholeVocabulary(model.vocabulary(), added));
  TEQ_ASSIGN_OR_RETURN(auto affixes, FindAffixes(root["post_processor"], config, vocabulary));
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (AddedToken token : added) {
    if (!token.normalized) {
      raw.push_back(std::move(token));
      continue;
    }
    Piece piece = {.text = token.content};
    TEQ_RETURN_IF_ERROR(Normalize(normalizer, piece));
    token.content = piece.text;
    normalized.push_back(std::move(token));
  }
  TEQ_ASSIGN_OR_RETURN(auto raw_tokens, AddedTokenFinder::Create(std::move(raw)));
  TEQ_ASSIGN_OR_RETURN(auto normalized_tokens, AddedTokenFinder::Create(std::move(normalized)));
  return Pipeline{std::move(raw_tokens),
                  std::move(normalized_tokens),
                  std::move(normalizer),
                  std::move(pre_tokenizer),
                  std::move(model),
                  std::move(affixes),
                  static_cast<std::int64_t>(vocabulary.size())};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizerJson(const std::filesystem::path& file,
                                                             const TokenizerConfig& config) {
  TEQ_ASSIGN_OR_RETURN(const auto json, ReadJsonFile(file));
  TEQ_ASSIGN_OR_RETURN(auto pipeline, ParsePipeline(JsonPart(json, kFile), config));
  return std::make_unique<JsonTokenizer>(std::move(pipeline));
}

}  // namespace teq::text
