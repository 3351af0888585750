#include "worker/engine/text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/added_tokens.h"
#include "worker/engine/text/sentencepiece_model.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

// The character that SentencePiece writes for a space.
constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

absl::Status Invalid(std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER", what);
}

// Whether every text between two special tokens gets a prefix space. Of other classes than
// LlamaTokenizer the flag says nothing.
bool IsLegacy(const TokenizerConfig& config) {
  const std::string_view name = config.tokenizer_class;
  return config.legacy.value_or(true) || !(name.empty() || name.starts_with("LlamaTokenizer"));
}

// What takes the place of the model's prefix space where `legacy` is false.
struct OwnSpaces {
  std::string_view at_start;  // put before the whole text
  std::string unknown;        // put before a text that begins with a space: some models drop that
  std::size_t unknown_size = 0;  // its ids, which are dropped again
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::unique_ptr<SentencePieceModel> model, AddedTokenFinder finder,
                         std::optional<OwnSpaces> own_spaces, std::vector<std::int32_t> prefix,
                         std::vector<std::int32_t> suffix, std::int64_t vocabulary_size)
      : model_(std::move(model)),
        finder_(std::move(finder)),
        own_spaces_(std::move(own_spaces)),
        prefix_(std::move(prefix)),
        suffix_(std::move(suffix)),
        vocabulary_size_(vocabulary_size) {}

  absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view text) const override {
    std::vector<Piece> pieces = {{.text = RepairUtf8(text), .at_start = true}};
    TEQ_RETURN_IF_ERROR(finder_.Split(pieces));
    std::vector<std::int32_t> ids;
    for (const Piece& piece : pieces) {
      if (piece.id) {
        ids.push_back(*piece.id);
        continue;
      }
      TEQ_ASSIGN_OR_RETURN(const auto more, EncodePiece(piece));
      ids.insert(ids.end(), more.begin(), more.end());
    }
    return ids;
  }

  const std::vector<std::int32_t>& prefix() const override { return prefix_; }
  const std::vector<std::int32_t>& suffix() const override { return suffix_; }
  std::int64_t vocabulary_size() const override { return vocabulary_size_; }
  std::int64_t base_vocabulary_size() const override { return model_->size(); }

 private:
  // As transformers' LlamaTokenizer._tokenize.
  [[nodiscard]] absl::StatusOr<std::vector<std::int32_t>> EncodePiece(const Piece& piece) const {
    if (!own_spaces_) return model_->Encode(piece.text);
    const std::string text =
        fmt::format("{}{}", piece.at_start ? own_spaces_->at_start : "", piece.text);
    if (!text.starts_with(' ') && !text.starts_with(kSpaceMark)) return model_->Encode(text);
    TEQ_ASSIGN_OR_RETURN(auto ids, model_->Encode(own_spaces_->unknown + text));
    const std::size_t dropped = std::min(ids.size(), own_spaces_->unknown_size);
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(dropped));
    return ids;
  }

  std::unique_ptr<SentencePieceModel> model_;
  AddedTokenFinder finder_;
  std::optional<OwnSpaces> own_spaces_;
  std::vector<std::int32_t> prefix_;
  std::vector<std::int32_t> suffix_;
  std::int64_t vocabulary_size_;
};

absl::StatusOr<std::vector<std::int32_t>> SpecialToken(std::string_view flag,
                                                       const std::string& token,
                                                       std::optional<std::int32_t> fallback,
                                                       const TokenizerConfig& config,
                                                       const SentencePieceModel& model) {
  std::optional<std::int32_t> id = fallback;
  if (!token.empty()) {
    TEQ_ASSIGN_OR_RETURN(id, model.Find(token));
    const auto added = std::ranges::find(config.added_tokens, token, &AddedToken::content);
    if (added != config.added_tokens.end()) id = added->id;
  }
  if (id) return std::vector<std::int32_t>{*id};
  return Invalid(
      fmt::format("tokenizer_config.json: {} asks for the token \"{}\", which neither "
                  "added_tokens_decoder nor tokenizer.model has",
                  flag, token));
}

// The tokens that are recognised in a text.
absl::StatusOr<std::vector<AddedToken>> AddedTokens(const TokenizerConfig& config,
                                                    const SentencePieceModel& model) {
  std::vector<AddedToken> tokens = config.added_tokens;
  for (const AddedToken& token : tokens) {
    TEQ_ASSIGN_OR_RETURN(const auto id, model.Find(token.content));
    if (id && *id != token.id) {
      return Invalid(
          fmt::format("tokenizer_config.json: added_tokens_decoder gives \"{}\" the id "
                      "{}; tokenizer.model gives it {}",
                      token.content, token.id, *id));
    }
  }
  for (const std::string& special : {config.bos_token, config.eos_token, config.unk_token}) {
    TEQ_ASSIGN_OR_RETURN(const auto id, model.Find(special));
    if (id && std::ranges::find(tokens, special, &AddedToken::content) == tokens.end()) {
      tokens.push_back({.content = special, .id = *id});
    }
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenSentencePieceTokenizer(
    const std::filesystem::path& file, const TokenizerConfig& config) {
  const bool legacy = IsLegacy(config);
  TEQ_ASSIGN_OR_RETURN(auto model, SentencePieceModel::Load(file, /*dummy_prefix=*/legacy));
  std::optional<OwnSpaces> own_spaces;
  if (!legacy) {
    own_spaces = OwnSpaces{.at_start = config.add_prefix_space.value_or(true) ? kSpaceMark : "",
                           .unknown = config.unk_token.empty() ? "<unk>" : config.unk_token};
    TEQ_ASSIGN_OR_RETURN(const auto unknown, model->Encode(own_spaces->unknown));
    own_spaces->unknown_size = unknown.size();
  }
  std::vector<std::int32_t> prefix;
  std::vector<std::int32_t> suffix;
  if (config.add_bos_token.value_or(true)) {
    TEQ_ASSIGN_OR_RETURN(
        prefix, SpecialToken("add_bos_token", config.bos_token, model->bos(), config, *model));
  }
  if (config.add_eos_token.value_or(false)) {
    TEQ_ASSIGN_OR_RETURN(
        suffix, SpecialToken("add_eos_token", config.eos_token, model->eos(), config, *model));
  }
  TEQ_ASSIGN_OR_RETURN(auto tokens, AddedTokens(config, *model));
  std::int64_t size = model->size();
  for (const AddedToken& token : tokens) size = std::max<std::int64_t>(size, token.id + 1);
  TEQ_ASSIGN_OR_RETURN(auto finder, AddedTokenFinder::Create(std::move(tokens)));
  return std::make_unique<SentencePieceTokenizer>(std::move(model), std::move(finder),
                                                  std::move(own_spaces), std::move(prefix),
                                                  std::move(suffix), size);
}

}  // namespace teq::text
