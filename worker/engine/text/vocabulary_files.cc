#include "worker/engine/text/vocabulary_files.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/tokenizer_json.h"

namespace teq::text {
namespace {

using Json = nlohmann::json;

absl::Status Invalid(std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER", what);
}

absl::Status CheckKind(const std::filesystem::path& directory, const TokenizerConfig& config) {
  constexpr std::string_view kRemedy =
      "; save the tokenizer with transformers.AutoTokenizer, which writes tokenizer.json";
  const std::string& name = config.tokenizer_class;
  if (name == "GPT2Tokenizer" || name == "GPT2TokenizerFast") return absl::OkStatus();
  if (!name.empty()) {
    return Invalid(
        fmt::format("tokenizer_config.json: tokenizer_class {} is not supported with "
                    "vocab.json and merges.txt; supported: GPT2Tokenizer{}",
                    name, kRemedy));
  }
  constexpr std::array<std::string_view, 4> kTypes = {"gpt2", "gpt_neo", "gptj", "opt"};
  TEQ_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(directory / "config.json"));
  TEQ_ASSIGN_OR_RETURN(const std::string type,
                       JsonPart(json, "config.json")["model_type"].StringOr("(none)"));
  if (std::ranges::find(kTypes, type) != kTypes.end()) return absl::OkStatus();
  return Invalid(
      fmt::format("vocab.json and merges.txt of a model of type {} are not read; "
                  "supported: gpt2, gpt_neo, gptj, opt{}",
                  type, kRemedy));
}

absl::StatusOr<Json> ReadMerges(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  Json merges = Json::array();
  for (std::string line; std::getline(stream, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) merges.push_back(std::move(line));
  }
  if (stream.bad() || !stream.eof()) {
    return Invalid("merges.txt cannot be read; check its permissions");
  }
  return merges;
}

// The entry of a tokenizer.json's added_tokens.
Json Entry(const AddedToken& token) {
  return {{"id", static_cast<std::uint32_t>(token.id)},
          {"content", token.content},
          {"single_word", token.single_word},
          {"lstrip", token.lstrip},
          {"rstrip", token.rstrip},
          {"normalized", token.normalized},
          {"special", token.special}};
}

absl::StatusOr<Json> AddedTokens(const std::filesystem::path& directory,
                                 const TokenizerConfig& config, const Json& vocabulary) {
  Json tokens = Json::array();
  const auto known = [&tokens](const std::string& content) {
    return std::ranges::any_of(tokens, [&](const Json& t) { return t["content"] == content; });
  };
  for (const AddedToken& token : config.added_tokens) tokens.push_back(Entry(token));
  std::error_code error;
  const auto file = directory / "added_tokens.json";
  if (std::filesystem::exists(file, error)) {
    TEQ_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(file));
    const JsonPart root(json, "added_tokens.json");
    TEQ_ASSIGN_OR_RETURN(const auto* ids, root.Object());
    for (const auto& [content, value] : *ids) {
      TEQ_ASSIGN_OR_RETURN(const std::int32_t id, root[content].Id());
      if (!known(content)) tokens.push_back(Entry({.content = content, .id = id}));
    }
  }
  const auto or_the_class_own = [](const std::string& token) {
    return token.empty() ? std::string("<|endoftext|>") : token;
  };
  for (const std::string& content :
       {or_the_class_own(config.bos_token), or_the_class_own(config.eos_token),
        or_the_class_own(config.unk_token), config.pad_token}) {
    const auto found = vocabulary.find(content);
    if (content.empty() || known(content) || found == vocabulary.end()) continue;
    tokens.push_back({{"id", *found}, {"content", content}, {"special", true}});
  }
  return tokens;
}

}  // namespace

absl::StatusOr<Json> ReadVocabularyFiles(const std::filesystem::path& directory,
                                         const TokenizerConfig& config) {
  TEQ_RETURN_IF_ERROR(CheckKind(directory, config));
  TEQ_ASSIGN_OR_RETURN(Json vocabulary, ReadJsonFile(directory / "vocab.json"));
  TEQ_RETURN_IF_ERROR(JsonPart(vocabulary, "vocab.json").Object().status());
  TEQ_ASSIGN_OR_RETURN(Json merges, ReadMerges(directory / "merges.txt"));
  TEQ_ASSIGN_OR_RETURN(Json added, AddedTokens(directory, config, vocabulary));
  return Json{{"added_tokens", std::move(added)},
              {"pre_tokenizer",
               {{"type", "ByteLevel"},
                {"add_prefix_space", config.add_prefix_space.value_or(false)},
                {"use_regex", true}}},
              {"model",
               {{"type", "BPE"}, {"vocab", std::move(vocabulary)}, {"merges", std::move(merges)}}}};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenVocabularyFiles(
    const std::filesystem::path& directory, const TokenizerConfig& config) {
  TEQ_ASSIGN_OR_RETURN(const Json document, ReadVocabularyFiles(directory, config));
  return MakeTokenizer(JsonPart(document, "vocab.json and merges.txt"), config);
}

}  // namespace teq::text
