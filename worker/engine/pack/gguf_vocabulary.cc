#include "worker/engine/pack/gguf_vocabulary.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "client/model_info/gguf_error.h"
#include "client/model_info/gguf_sentencepiece.h"
#include "client/model_info/gguf_tokenizer.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/tokenizer.h"
#include "worker/engine/text/tokenizer_config.h"
#include "worker/engine/text/utf8.h"
#include "worker/engine/text/vocabulary_files.h"

namespace teq::pack {
namespace {

using Json = nlohmann::json;
using Source = model_info::GgufTokenizer::Source;
using text::JsonPart;
using Type = GgufToken::Type;
using Ids = std::unordered_map<std::string, std::int32_t>;

// No model has so many tokens; a greater id is a typing error that would fill the memory.
constexpr std::int32_t kMostTokens = 1 << 24;

absl::Status Invalid(std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER", what);
}

absl::Status Put(std::int32_t id, GgufToken token, std::vector<GgufToken>& tokens) {
  if (id < 0 || id >= kMostTokens) {
    return Invalid(fmt::format("token \"{}\" has the id {}", token.text, id));
  }
  const auto index = static_cast<std::size_t>(id);
  if (index >= tokens.size()) tokens.resize(index + 1, {.type = Type::kUnused});
  tokens[index] = std::move(token);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GgufToken>> TokensOf(const JsonPart& document) {
  std::vector<GgufToken> tokens;
  const JsonPart vocabulary = document["model"]["vocab"];
  TEQ_ASSIGN_OR_RETURN(const auto* entries, vocabulary.Object());
  for (const auto& [content, value] : *entries) {
    TEQ_ASSIGN_OR_RETURN(const std::int32_t id, vocabulary[content].Id());
    TEQ_RETURN_IF_ERROR(Put(id, {.text = content}, tokens));
  }
  if (!document["added_tokens"].present()) return tokens;
  TEQ_ASSIGN_OR_RETURN(const auto added, document["added_tokens"].List());
  for (const JsonPart& part : added) {
    TEQ_ASSIGN_OR_RETURN(const std::int32_t id, part["id"].Id());
    TEQ_ASSIGN_OR_RETURN(std::string content, part["content"].String());
    TEQ_ASSIGN_OR_RETURN(const bool special, part["special"].BoolOr(false));
    TEQ_RETURN_IF_ERROR(
        Put(id, {.text = std::move(content), .type = special ? Type::kControl : Type::kUserDefined},
            tokens));
  }
  return tokens;
}

using Merge = std::pair<std::string, std::string>;

/// Both forms of a merge: "a b", and ["a", "b"].
absl::StatusOr<std::vector<Merge>> MergesOf(const JsonPart& document) {
  std::vector<Merge> merges;
  TEQ_ASSIGN_OR_RETURN(const auto list, document["model"]["merges"].List());
  for (const JsonPart& part : list) {
    if (const auto pair = part.List(); pair.ok() && pair->size() == 2) {
      TEQ_ASSIGN_OR_RETURN(std::string left, (*pair)[0].String());
      TEQ_ASSIGN_OR_RETURN(std::string right, (*pair)[1].String());
      merges.emplace_back(std::move(left), std::move(right));
      continue;
    }
    TEQ_ASSIGN_OR_RETURN(const std::string line, part.String());
    if (line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) return part.Invalid("has no two parts");
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

bool IsByte(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
}

Ids IdsOf(const std::vector<GgufToken>& tokens) {
  Ids ids;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].text.empty()) ids.emplace(tokens[id].text, static_cast<std::int32_t>(id));
  }
  return ids;
}

absl::Status ScoresCannotSay(std::string_view token) {
  return model_info::GgufCannotHold(
      fmt::format("its tokens have one score each, and the merges that form \"{}\" are not as a "
                  "score would have them",
                  token),
      "put the model's tokenizer.model in place of tokenizer.json");
}

absl::Status ScoreByMerges(const std::vector<Merge>& merges, std::vector<GgufToken>& tokens) {
  const Ids ids = IdsOf(tokens);
  std::set<Merge> known;
  std::string previous;
  float rank = 0;
  for (const Merge& merge : merges) {
    const std::string whole = merge.first + merge.second;
    known.insert(merge);
    if (whole == previous) continue;
    const auto found = ids.find(whole);
    if (found == ids.end()) return Invalid(fmt::format("merges form \"{}\", no token", whole));
    GgufToken& token = tokens[static_cast<std::size_t>(found->second)];
    if (token.score < 0) return ScoresCannotSay(whole);
    rank -= 1;
    token.score = rank;
    previous = whole;
  }
  for (const GgufToken& token : tokens) {
    if (token.type != Type::kNormal) continue;
    const std::string_view text = token.text;
    for (std::size_t cut = text::FirstCharacterSize(text); cut < text.size();
         cut += text::FirstCharacterSize(text.substr(cut))) {
      Merge parts(text.substr(0, cut), text.substr(cut));
      if (ids.contains(parts.first) && ids.contains(parts.second) && !known.contains(parts)) {
        return ScoresCannotSay(text);
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufVocabulary> SentencePieceVocabulary(const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(const model_info::SentencePieces model,
                       model_info::ReadSentencePieces(directory / "tokenizer.model"));
  GgufVocabulary vocabulary;
  for (const auto& piece : model.pieces) {
    vocabulary.tokens.push_back({piece.text, piece.score, static_cast<Type>(piece.type)});
  }
  std::error_code error;
  if (!std::filesystem::exists(directory / "tokenizer_config.json", error)) return vocabulary;
  TEQ_ASSIGN_OR_RETURN(const Json config, text::ReadJsonFile(directory / "tokenizer_config.json"));
  const JsonPart added = JsonPart(config, "tokenizer_config.json")["added_tokens_decoder"];
  if (!added.present()) return vocabulary;
  TEQ_ASSIGN_OR_RETURN(const auto* entries, added.Object());
  for (const auto& [number, value] : *entries) {
    const std::int32_t id = std::atoi(number.c_str());
    if (id < static_cast<std::int32_t>(model.pieces.size())) continue;
    TEQ_ASSIGN_OR_RETURN(std::string content, added[number]["content"].String());
    TEQ_ASSIGN_OR_RETURN(const bool special, added[number]["special"].BoolOr(false));
    TEQ_RETURN_IF_ERROR(
        Put(id, {.text = std::move(content), .type = special ? Type::kControl : Type::kUserDefined},
            vocabulary.tokens));
  }
  return vocabulary;
}

absl::StatusOr<GgufVocabulary> ReadVocabulary(const std::filesystem::path& directory,
                                              const model_info::GgufTokenizer& kind,
                                              const text::TokenizerConfig& config) {
  if (kind.source == Source::kSentencePiece) return SentencePieceVocabulary(directory);
  if (kind.source == Source::kVocabularyFiles) {
    TEQ_ASSIGN_OR_RETURN(const Json document, text::ReadVocabularyFiles(directory, config));
    return ByteLevelVocabulary(document);
  }
  TEQ_ASSIGN_OR_RETURN(const Json document, text::ReadJsonFile(directory / "tokenizer.json"));
  return kind.model == "gpt2" ? ByteLevelVocabulary(document) : MetaspaceVocabulary(document);
}

bool IsAdded(const GgufToken& token) {
  return token.type == Type::kControl || token.type == Type::kUserDefined;
}

/// Every row of the embedding needs a token, no added token may lack its row, and no two tokens may
/// have one text.
absl::Status FillUp(std::int64_t size, std::vector<GgufToken>& tokens) {
  while (static_cast<std::int64_t>(tokens.size()) > size && IsAdded(tokens.back())) {
    tokens.pop_back();
  }
  if (static_cast<std::int64_t>(tokens.size()) > size) {
    return Error(absl::StatusCode::kInvalidArgument, "VOCABULARY_MISMATCH",
                 fmt::format("the tokenizer has {} tokens, but config.json's vocab_size is {}",
                             tokens.size(), size));
  }
  tokens.resize(static_cast<std::size_t>(size), {.type = Type::kUnused});
  std::set<std::string_view> texts;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].text.empty()) {
      tokens[id] = {.text = fmt::format("[PAD{}]", id), .type = Type::kUnused};
    }
    if (!texts.insert(tokens[id].text).second) {
      return model_info::GgufCannotHold(
          fmt::format("two of its tokens have the text \"{}\"", tokens[id].text));
    }
  }
  return absl::OkStatus();
}

/// The id that a key of config.json gives: a number, or the first of a list.
std::optional<std::int32_t> ConfiguredId(const Json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return std::nullopt;
  const Json& value = found->is_array() && !found->empty() ? found->front() : *found;
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= kMostTokens) {
    return std::nullopt;
  }
  return value.get<std::int32_t>();
}

/// The special ids and whether they are put around a text.
class SpecialIds {
 public:
  SpecialIds(const Ids& ids, const Json& config, GgufMetadata& metadata)
      : ids_(ids), config_(config), metadata_(metadata) {}

  void Add(const char* key, const std::string& token, const char* config_key) {
    const auto found = ids_.find(token);
    const auto id =
        found != ids_.end() ? std::optional(found->second) : ConfiguredId(config_, config_key);
    if (id && *id < static_cast<std::int64_t>(ids_.size())) {
      metadata_.AddNumber(fmt::format("tokenizer.ggml.{}_token_id", key), *id);
    }
  }

  absl::Status AddAffix(const char* key, const std::vector<std::int32_t>& affix,
                        const std::string& token, const char* config_key) {
    if (affix.size() > 1) {
      return model_info::GgufCannotHold(fmt::format(
          "its tokenizer puts {} tokens around a text, and llama.cpp one {}", affix.size(), key));
    }
    metadata_.AddFlag(fmt::format("tokenizer.ggml.add_{}_token", key), !affix.empty());
    if (affix.empty()) {
      Add(key, token, config_key);
    } else {
      metadata_.AddNumber(fmt::format("tokenizer.ggml.{}_token_id", key), affix.front());
    }
    return absl::OkStatus();
  }

 private:
  const Ids& ids_;
  const Json& config_;
  GgufMetadata& metadata_;
};

absl::StatusOr<Json> ReadJsonIfThere(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return Json::object();
  return text::ReadJsonFile(file);
}

/// From a file of its own, or from tokenizer_config.json: a text, or a list of named ones.
std::string ChatTemplate(const std::filesystem::path& directory, const Json& config) {
  std::ifstream stream(directory / "chat_template.jinja", std::ios::binary);
  if (stream) return {std::istreambuf_iterator<char>(stream), {}};
  const Json found = config.is_object() ? config.value("chat_template", Json()) : Json();
  if (found.is_string()) return found.get<std::string>();
  if (!found.is_array()) return "";
  for (const Json& each : found) {
    if (each.is_object() && each.value("name", Json()) == "default" &&
        each.value("template", Json()).is_string()) {
      return each["template"].get<std::string>();
    }
  }
  return "";
}

void AddTokens(const GgufVocabulary& vocabulary, bool scored, GgufMetadata& metadata) {
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  for (const GgufToken& token : vocabulary.tokens) {
    texts.push_back(token.text);
    scores.push_back(token.score);
    types.push_back(static_cast<std::int32_t>(token.type));
  }
  metadata.AddTexts("tokenizer.ggml.tokens", texts);
  if (scored) metadata.AddReals("tokenizer.ggml.scores", scores);
  metadata.AddNumbers("tokenizer.ggml.token_type", types);
  if (!scored) metadata.AddTexts("tokenizer.ggml.merges", vocabulary.merges);
}

}  // namespace

absl::StatusOr<GgufVocabulary> ByteLevelVocabulary(const Json& document) {
  const JsonPart root(document, "tokenizer.json");
  GgufVocabulary vocabulary;
  TEQ_ASSIGN_OR_RETURN(vocabulary.tokens, TokensOf(root));
  TEQ_ASSIGN_OR_RETURN(const auto merges, MergesOf(root));
  for (const Merge& merge : merges) {
    vocabulary.merges.push_back(fmt::format("{} {}", merge.first, merge.second));
  }
  return vocabulary;
}

absl::StatusOr<GgufVocabulary> MetaspaceVocabulary(const Json& document) {
  const JsonPart root(document, "tokenizer.json");
  GgufVocabulary vocabulary;
  TEQ_ASSIGN_OR_RETURN(vocabulary.tokens, TokensOf(root));
  TEQ_ASSIGN_OR_RETURN(const auto merges, MergesOf(root));
  TEQ_ASSIGN_OR_RETURN(const std::string unknown, root["model"]["unk_token"].StringOr(""));
  for (GgufToken& token : vocabulary.tokens) {
    if (IsByte(token.text)) token.type = Type::kByte;
    if (!unknown.empty() && token.text == unknown) token.type = Type::kUnknown;
  }
  const auto bytes =
      std::ranges::count(vocabulary.tokens, Type::kByte, [](const auto& t) { return t.type; });
  if (bytes != 256) {
    return model_info::GgufCannotHold(
        fmt::format("its tokenizer has {} of 256 pieces for bytes", bytes));
  }
  TEQ_RETURN_IF_ERROR(ScoreByMerges(merges, vocabulary.tokens));
  return vocabulary;
}

absl::Status DescribeVocabulary(const std::filesystem::path& directory,
                                std::int64_t vocabulary_size, GgufMetadata& metadata) {
  TEQ_ASSIGN_OR_RETURN(const auto kind, model_info::FindGgufTokenizer(directory));
  TEQ_ASSIGN_OR_RETURN(const auto config, text::ReadTokenizerConfig(directory));
  TEQ_ASSIGN_OR_RETURN(const auto tokenizer, text::OpenTokenizer(directory));
  TEQ_ASSIGN_OR_RETURN(GgufVocabulary vocabulary, ReadVocabulary(directory, kind, config));
  TEQ_RETURN_IF_ERROR(FillUp(vocabulary_size, vocabulary.tokens));
  TEQ_ASSIGN_OR_RETURN(const Json model, ReadJsonIfThere(directory / "config.json"));
  TEQ_ASSIGN_OR_RETURN(const Json texts, ReadJsonIfThere(directory / "tokenizer_config.json"));

  metadata.AddText("tokenizer.ggml.model", kind.model);
  metadata.AddText("tokenizer.ggml.pre", kind.pre);
  const bool scored = kind.model == "llama";
  AddTokens(vocabulary, scored, metadata);
  const Ids ids = IdsOf(vocabulary.tokens);
  SpecialIds special(ids, model, metadata);
  TEQ_RETURN_IF_ERROR(
      special.AddAffix("bos", tokenizer->prefix(), config.bos_token, "bos_token_id"));
  TEQ_RETURN_IF_ERROR(
      special.AddAffix("eos", tokenizer->suffix(), config.eos_token, "eos_token_id"));
  special.Add("unknown", config.unk_token, "unk_token_id");
  special.Add("padding", config.pad_token, "pad_token_id");
  if (scored) metadata.AddFlag("tokenizer.ggml.add_space_prefix", kind.space_prefix);
  const std::string chat = ChatTemplate(directory, texts);
  if (!chat.empty()) metadata.AddText("tokenizer.chat_template", chat);
  return absl::OkStatus();
}

}  // namespace teq::pack
