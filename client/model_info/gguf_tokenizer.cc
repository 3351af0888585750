#include "client/model_info/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "client/model_info/gguf_error.h"
#include "client/model_info/gguf_sentencepiece.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::json;
using Source = GgufTokenizer::Source;

constexpr std::string_view kLlama3Words =
    R"(Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Words =
    R"(Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBloomWords =
    "Split  ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+";

/// The stages of a pre_tokenizer, each described in a line, that llama.cpp runs under a name.
struct WordKind {
  std::string_view pre;
  bool ignore_merges;  // a word that is a token is that token, whatever the merges say
  std::array<std::string_view, 4> stages;
};

constexpr std::array kWordKinds = {
    WordKind{"gpt-2", false, {"ByteLevel words"}},
    WordKind{"llama-bpe", true, {kLlama3Words, "ByteLevel"}},
    WordKind{"dbrx", false, {kLlama3Words, "ByteLevel"}},
    WordKind{"qwen2", false, {kQwen2Words, "ByteLevel"}},
    WordKind{"bloom", false, {kBloomWords, "ByteLevel"}},
    WordKind{"falcon",
             false,
             {"Punctuation Contiguous", "ByteLevel words", "Digits", "Split [0-9][0-9][0-9]"}},
    WordKind{"smollm", false, {"Digits each", "ByteLevel words"}},
};

absl::Status Invalid(const std::filesystem::path& file, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
               fmt::format("{}: {}", file.string(), what));
}

absl::Status NoKind(std::string_view what) {
  return GgufCannotHold(fmt::format("no tokenizer of llama.cpp gives this one's ids: {}", what));
}

absl::StatusOr<Json> ReadJson(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  Json json = Json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Invalid(file, "is no JSON object");
  return json;
}

/// A member, or null.
const Json& Part(const Json& json, const char* key) {
  static const Json kNone;
  const auto found = json.find(key);
  return json.is_object() && found != json.end() ? *found : kNone;
}

std::string Text(const Json& json, const char* key, const char* fallback = "") {
  const Json& part = Part(json, key);
  return part.is_string() ? part.get<std::string>() : fallback;
}

bool Flag(const Json& json, const char* key, bool fallback) {
  const Json& part = Part(json, key);
  return part.is_boolean() ? part.get<bool>() : fallback;
}

bool Exists(const std::filesystem::path& file) {
  std::error_code error;
  return std::filesystem::exists(file, error);
}

/// A normalizer or pre_tokenizer as the list of its stages.
std::vector<Json> Stages(const Json& stage, const char* list) {
  if (stage.is_null()) return {};
  if (Text(stage, "type") != "Sequence") return {stage};
  std::vector<Json> stages;
  for (const Json& each : Part(stage, list)) {
    for (Json& inner : Stages(each, list)) stages.push_back(std::move(inner));
  }
  return stages;
}

/// A pre_tokenizer's stage in a line; what the line does not tell has its usual value.
std::string Describe(const Json& stage) {
  const std::string type = Text(stage, "type");
  if (type == "ByteLevel") {
    return fmt::format("ByteLevel{}{}", Flag(stage, "use_regex", true) ? " words" : "",
                       Flag(stage, "add_prefix_space", true) ? " after a space" : "");
  }
  if (type == "Split") {
    const Json& pattern = Part(stage, "pattern");
    const std::string behavior = Text(stage, "behavior", "Isolated");
    const std::string literal = Text(pattern, "String");
    return fmt::format("Split {}{}{}",
                       literal.empty() ? Text(pattern, "Regex") : fmt::format("at \"{}\"", literal),
                       behavior == "Isolated" ? "" : ", " + behavior,
                       Flag(stage, "invert", false) ? ", inverted" : "");
  }
  if (type == "Digits") {
    return Flag(stage, "individual_digits", false) ? "Digits each" : "Digits";
  }
  if (type == "Punctuation") return "Punctuation " + Text(stage, "behavior", "Isolated");
  return type.empty() ? "none" : type;
}

absl::StatusOr<std::string> FindWordKind(const Json& pre_tokenizer, bool ignore_merges) {
  std::vector<std::string> stages;
  for (const Json& stage : Stages(pre_tokenizer, "pretokenizers")) {
    stages.push_back(Describe(stage));
  }
  stages.resize(std::max<std::size_t>(stages.size(), 4));
  std::vector<std::string_view> known;
  for (const WordKind& kind : kWordKinds) {
    known.push_back(kind.pre);
    if (kind.ignore_merges == ignore_merges &&
        std::equal(stages.begin(), stages.end(), kind.stages.begin(), kind.stages.end())) {
      return std::string(kind.pre);
    }
  }
  std::erase(stages, "");
  return NoKind(fmt::format("its pre_tokenizer cuts words by [{}]{}; known are those of {}",
                            fmt::join(stages, "; "), ignore_merges ? " with ignore_merges" : "",
                            fmt::join(known, ", ")));
}

absl::Status CheckAddedTokens(const Json& document, bool metaspace) {
  for (const Json& token : Part(document, "added_tokens")) {
    const std::string content = Text(token, "content");
    for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
      if (Flag(token, flag, false)) {
        return NoKind(fmt::format("its added token \"{}\" has {}", content, flag));
      }
    }
    if (metaspace && content.find_first_of(" \xe2\x96\x81") != std::string::npos) {
      return NoKind(fmt::format("its added token \"{}\" holds a space", content));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufTokenizer> ByteLevelKind(const Json& document) {
  for (const Json& stage : Stages(Part(document, "normalizer"), "normalizers")) {
    const std::string type = Text(stage, "type");
    if (type != "NFC") return NoKind(fmt::format("it normalizes texts by {}", type));
  }
  TEQ_RETURN_IF_ERROR(CheckAddedTokens(document, /*metaspace=*/false));
  GgufTokenizer tokenizer{.source = Source::kTokenizerJson, .model = "gpt2"};
  TEQ_ASSIGN_OR_RETURN(tokenizer.pre,
                       FindWordKind(Part(document, "pre_tokenizer"),
                                    Flag(Part(document, "model"), "ignore_merges", false)));
  return tokenizer;
}

bool IsReplaceSpace(const Json& stage) {
  return Text(stage, "type") == "Replace" && Text(Part(stage, "pattern"), "String") == " " &&
         Text(stage, "content") == "\u2581";
}

/// Where the space before a text comes from, in the forms that Llama's files have had: normalizers
/// [Prepend, Replace], or [Replace], or the pre-tokenizer Metaspace without a split.
absl::StatusOr<bool> FindSpacePrefix(const Json& document) {
  const auto normalizers = Stages(Part(document, "normalizer"), "normalizers");
  const auto cutters = Stages(Part(document, "pre_tokenizer"), "pretokenizers");
  if (cutters.empty() && normalizers.size() == 1 && IsReplaceSpace(normalizers[0])) return false;
  if (cutters.empty() && normalizers.size() == 2 && Text(normalizers[0], "type") == "Prepend" &&
      Text(normalizers[0], "prepend") == "\u2581" && IsReplaceSpace(normalizers[1])) {
    return true;
  }
  if (normalizers.empty() && cutters.size() == 1 && Text(cutters[0], "type") == "Metaspace" &&
      Text(cutters[0], "replacement") == "\u2581" && !Flag(cutters[0], "split", true)) {
    const bool by_default = Flag(cutters[0], "add_prefix_space", true);
    return Text(cutters[0], "prepend_scheme", by_default ? "always" : "never") != "never";
  }
  return NoKind("its normalizer and pre_tokenizer are not those of Llama's SentencePiece");
}

absl::StatusOr<GgufTokenizer> MetaspaceKind(const Json& document) {
  TEQ_RETURN_IF_ERROR(CheckAddedTokens(document, /*metaspace=*/true));
  if (Flag(Part(document, "model"), "ignore_merges", false)) {
    return NoKind("it has byte_fallback and ignore_merges");
  }
  GgufTokenizer tokenizer{.source = Source::kTokenizerJson, .model = "llama", .pre = "default"};
  TEQ_ASSIGN_OR_RETURN(tokenizer.space_prefix, FindSpacePrefix(document));
  return tokenizer;
}

bool HasByteLevel(const Json& document) {
  const auto stages = Stages(Part(document, "pre_tokenizer"), "pretokenizers");
  return std::any_of(stages.begin(), stages.end(),
                     [](const Json& stage) { return Text(stage, "type") == "ByteLevel"; });
}

absl::StatusOr<GgufTokenizer> KindOfTokenizerJson(const std::filesystem::path& file) {
  TEQ_ASSIGN_OR_RETURN(const Json document, ReadJson(file));
  const std::string type = Text(Part(document, "model"), "type");
  if (type != "BPE") return NoKind(fmt::format("its model is {}; known: BPE", type));
  if (HasByteLevel(document)) return ByteLevelKind(document);
  if (Flag(Part(document, "model"), "byte_fallback", false)) return MetaspaceKind(document);
  return NoKind(
      "it is BPE that neither works on bytes (ByteLevel) nor has pieces for them "
      "(byte_fallback)");
}

absl::StatusOr<GgufTokenizer> KindOfSentencePiece(const std::filesystem::path& file) {
  TEQ_ASSIGN_OR_RETURN(const SentencePieces pieces, ReadSentencePieces(file));
  if (!pieces.bpe) return NoKind("tokenizer.model is no BPE");
  if (pieces.normalizes) return NoKind("tokenizer.model normalizes texts");
  const auto bytes =
      std::count_if(pieces.pieces.begin(), pieces.pieces.end(),
                    [](const SentencePieces::Piece& piece) { return piece.type == 6; });
  if (bytes != 256) return NoKind("tokenizer.model has no pieces for bytes");
  return GgufTokenizer{.source = Source::kSentencePiece,
                       .model = "llama",
                       .pre = "default",
                       .space_prefix = pieces.space_prefix};
}

absl::StatusOr<GgufTokenizer> KindOfVocabularyFiles(const std::filesystem::path& directory) {
  if (Exists(directory / "tokenizer_config.json")) {
    TEQ_ASSIGN_OR_RETURN(const Json config, ReadJson(directory / "tokenizer_config.json"));
    if (Flag(config, "add_prefix_space", false)) return NoKind("it puts a space before a text");
  }
  return GgufTokenizer{.source = Source::kVocabularyFiles, .model = "gpt2", .pre = "gpt-2"};
}

}  // namespace

absl::StatusOr<GgufTokenizer> FindGgufTokenizer(const std::filesystem::path& directory) {
  if (Exists(directory / "tokenizer.json"))
    return KindOfTokenizerJson(directory / "tokenizer.json");
  if (Exists(directory / "tokenizer.model")) {
    return KindOfSentencePiece(directory / "tokenizer.model");
  }
  if (Exists(directory / "vocab.json") && Exists(directory / "merges.txt")) {
    return KindOfVocabularyFiles(directory);
  }
  return GgufCannotHold(
      fmt::format("the file carries its tokenizer, and {} has none", directory.string()),
      "copy the tokenizer's files beside the weights");
}

}  // namespace teq::model_info
