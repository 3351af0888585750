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
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/normalizer.h"
#include "worker/engine/text/piece.h"
#include "worker/engine/text/post_processor.h"
#include "worker/engine/text/pre_tokenizer.h"
#include "worker/engine/text/utf8.h"
#include "worker/engine/text/word_model.h"

namespace teq::text {
namespace {

// Above every id. Ids need not be dense.
std::int64_t EndOfIds(const Vocabulary& vocabulary) {
  std::int64_t end = 0;
  for (const auto& [token, id] : vocabulary) end = std::max<std::int64_t>(end, id + 1LL);
  return end;
}

// The stages of a tokenizer.json.
struct Pipeline {
  AddedTokenFinder raw_tokens;         // looked for in the text as it is
  AddedTokenFinder normalized_tokens;  // and after normalization
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::unique_ptr<const WordModel> model;
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
  explicit WordCache(const WordModel& model) : model_(model) {}

  absl::Status Encode(const std::string& word, std::vector<std::int32_t>& ids) {
    if (word.size() > kMaxBytes) return model_.Encode(word, ids);
    auto found = words_.find(word);
    if (found == words_.end()) {
      if (words_.size() == kMaxWords) words_.clear();
      found = words_.emplace(word, std::vector<std::int32_t>()).first;
      TEQ_RETURN_IF_ERROR(model_.Encode(word, found->second));
    }
    ids.insert(ids.end(), found->second.begin(), found->second.end());
    return absl::OkStatus();
  }

 private:
  static constexpr std::size_t kMaxBytes = 256;
  static constexpr std::size_t kMaxWords = 100'000;

  const WordModel& model_;
  std::unordered_map<std::string, std::vector<std::int32_t>> words_;
};

class JsonTokenizer : public Tokenizer {
 public:
  explicit JsonTokenizer(Pipeline pipeline) : pipeline_(std::move(pipeline)) {}

  absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view text) const override {
    TEQ_ASSIGN_OR_RETURN(const auto pieces, Cut(RepairUtf8(text)));
    WordCache cache(*pipeline_.model);
    std::vector<std::int32_t> ids;
    for (const Piece& piece : pieces) {
      if (piece.id) {
        ids.push_back(*piece.id);
      } else {
        TEQ_RETURN_IF_ERROR(cache.Encode(piece.text, ids));
      }
    }
    return ids;
  }

  const std::vector<std::int32_t>& prefix() const override { return pipeline_.affixes.prefix; }
  const std::vector<std::int32_t>& suffix() const override { return pipeline_.affixes.suffix; }
  std::int64_t vocabulary_size() const override { return pipeline_.vocabulary_size; }
  std::int64_t base_vocabulary_size() const override {
    return EndOfIds(pipeline_.model->vocabulary());
  }

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

// All tokens by content; no two have one id.
absl::StatusOr<Vocabulary> WholeVocabulary(const Vocabulary& model,
                                           const std::vector<AddedToken>& added,
                                           std::string_view file) {
  Vocabulary all = model;
  for (const AddedToken& token : added) all.emplace(token.content, token.id);
  std::unordered_map<std::int32_t, std::string_view> by_id;
  for (const auto& [token, id] : all) {
    const auto [known, is_new] = by_id.emplace(id, token);
    if (is_new) continue;
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
                 fmt::format("{}: tokens \"{}\" and \"{}\" have the same id {}; give one of them "
                             "another",
                             file, std::min<std::string_view>(token, known->second),
                             std::max<std::string_view>(token, known->second), id));
  }
  return all;
}

// The bos of a class whose add_bos_token is true by default; empty for others.
std::string_view BosByDefault(std::string_view tokenizer_class) {
  using Row = std::pair<std::string_view, std::string_view>;
  constexpr std::array<Row, 4> kClasses = {
      Row{"LlamaTokenizer", "<s>"}, Row{"CodeLlamaTokenizer", "<s>"},
      Row{"GemmaTokenizer", "<bos>"}, Row{"CohereTokenizer", "<BOS_TOKEN>"}};
  if (tokenizer_class.ends_with("Fast")) tokenizer_class.remove_suffix(4);
  const auto found = std::ranges::find(kClasses, tokenizer_class, &Row::first);
  return found == kClasses.end() ? "" : found->second;
}

// Whether the class makes a post-processor of add_bos_token and add_eos_token. Others, such as
// PreTrainedTokenizerFast, keep the file's.
bool FollowsFlags(std::string_view tokenizer_class) {
  return tokenizer_class.empty() || !BosByDefault(tokenizer_class).empty() ||
         tokenizer_class.starts_with("GPTNeoXTokenizer");
}

absl::Status AppendConfigToken(std::string_view flag, std::string_view token,
                               const Vocabulary& vocabulary, std::vector<std::int32_t>& ids) {
  const auto found = vocabulary.find(token);
  if (found == vocabulary.end()) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
        fmt::format("tokenizer_config.json: {} asks for the token \"{}\", which the vocabulary "
                    "does not have",
                    flag, token));
  }
  ids.push_back(found->second);
  return absl::OkStatus();
}

absl::StatusOr<Affixes> FindAffixes(const JsonPart& post_processor, const TokenizerConfig& config,
                                    const Vocabulary& vocabulary) {
  const std::int64_t end = EndOfIds(vocabulary);
  const std::string_view class_bos = BosByDefault(config.tokenizer_class);
  const std::string_view bos = config.bos_token.empty() ? class_bos : config.bos_token;
  const bool bos_by_default =
      !class_bos.empty() && (!config.bos_token.empty() || vocabulary.contains(bos));
  const bool flags_count = bos_by_default || ((config.add_bos_token || config.add_eos_token) &&
                                              FollowsFlags(config.tokenizer_class));
  if (post_processor.present() && !flags_count) {
    TEQ_ASSIGN_OR_RETURN(auto affixes, ParsePostProcessor(post_processor));
    for (const auto* ids : {&affixes.prefix, &affixes.suffix}) {
      for (const std::int32_t id : *ids) {
        if (id >= end) {
          return post_processor.Invalid(
              fmt::format("adds the id {}; the vocabulary's ids are below {}", id, end));
        }
      }
    }
    return affixes;
  }
  Affixes affixes;
  if (config.add_bos_token.value_or(bos_by_default)) {
    TEQ_RETURN_IF_ERROR(AppendConfigToken("add_bos_token", bos, vocabulary, affixes.prefix));
  }
  if (config.add_eos_token.value_or(false)) {
    TEQ_RETURN_IF_ERROR(
        AppendConfigToken("add_eos_token", config.eos_token, vocabulary, affixes.suffix));
  }
  return affixes;
}

absl::StatusOr<Pipeline> ParsePipeline(const JsonPart& root, const TokenizerConfig& config) {
  TEQ_RETURN_IF_ERROR(root.Object().status());
  TEQ_ASSIGN_OR_RETURN(auto model, ParseWordModel(root["model"]));
  TEQ_ASSIGN_OR_RETURN(auto normalizer, ParseNormalizer(root["normalizer"]));
  TEQ_ASSIGN_OR_RETURN(auto pre_tokenizer, ParsePreTokenizer(root["pre_tokenizer"]));
  TEQ_ASSIGN_OR_RETURN(const auto added,
                       ParseAddedTokens(root["added_tokens"], model->vocabulary()));
  TEQ_ASSIGN_OR_RETURN(const auto vocabulary,
                       WholeVocabulary(model->vocabulary(), added, root.path()));
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
  return Pipeline{std::move(raw_tokens), std::move(normalized_tokens),
                  std::move(normalizer), std::move(pre_tokenizer),
                  std::move(model),      std::move(affixes),
                  EndOfIds(vocabulary)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const JsonPart& document,
                                                         const TokenizerConfig& config) {
  TEQ_ASSIGN_OR_RETURN(auto pipeline, ParsePipeline(document, config));
  return std::make_unique<JsonTokenizer>(std::move(pipeline));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizerJson(const std::filesystem::path& file,
                                                             const TokenizerConfig& config) {
  TEQ_ASSIGN_OR_RETURN(const auto json, ReadJsonFile(file));
  return MakeTokenizer(JsonPart(json, "tokenizer.json"), config);
}

}  // namespace teq::text
