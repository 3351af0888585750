#include "worker/engine/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

// Whether one character, or none, is of a class.
absl::StatusOr<bool> Matches(const Pattern& pattern, std::string_view character) {
  TEQ_ASSIGN_OR_RETURN(const auto spans, pattern.Split(character));
  return spans.front().matched;
}

}  // namespace

absl::StatusOr<AddedToken> ParseAddedToken(const JsonPart& part) {
  AddedToken token;
  TEQ_ASSIGN_OR_RETURN(token.content, part["content"].String());
  TEQ_ASSIGN_OR_RETURN(token.single_word, part["single_word"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(token.lstrip, part["lstrip"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(token.rstrip, part["rstrip"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(token.normalized, part["normalized"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(token.special, part["special"].BoolOr(false));
  return token;
}

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens, Pattern word, Pattern space)
    : tokens_(std::move(tokens)), word_(std::move(word)), space_(std::move(space)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].content.empty()) continue;
    by_first_byte_[static_cast<unsigned char>(tokens_[i].content.front())].push_back(i);
  }
  for (auto& candidates : by_first_byte_) {
    std::ranges::stable_sort(candidates, std::ranges::greater{},
                             [this](std::size_t i) { return tokens_[i].content.size(); });
  }
}

absl::StatusOr<AddedTokenFinder> AddedTokenFinder::Create(std::vector<AddedToken> tokens) {
  TEQ_ASSIGN_OR_RETURN(auto word, Pattern::Regex(fmt::format("\\A[{}]", kWordCharacters)));
  TEQ_ASSIGN_OR_RETURN(auto space, Pattern::Regex("\\A\\s"));
  return AddedTokenFinder(std::move(tokens), std::move(word), std::move(space));
}

const AddedToken* AddedTokenFinder::LongestAt(std::string_view text) const {
  for (const std::size_t i : by_first_byte_[static_cast<unsigned char>(text.front())]) {
    if (text.starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

absl::StatusOr<bool> AddedTokenFinder::IsWordBeside(std::string_view before,
                                                    std::string_view after) const {
  const auto last = before.substr(before.size() - LastCharacterSize(before));
  TEQ_ASSIGN_OR_RETURN(const bool word_before, Matches(word_, last));
  TEQ_ASSIGN_OR_RETURN(const bool word_after,
                       Matches(word_, after.substr(0, FirstCharacterSize(after))));
  return word_before || word_after;
}

absl::Status AddedTokenFinder::SplitPiece(const Piece& piece, std::vector<Piece>& pieces) const {
  const std::string_view text = piece.text;
  std::size_t done = 0;
  const auto add_text = [&](std::size_t begin, std::size_t end) {
    if (begin >= end) return;
    pieces.push_back({.text = std::string(text.substr(begin, end - begin)),
                      .at_start = piece.at_start && begin == 0});
  };
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token = LongestAt(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + token->content.size();
    at = end;
    if (token->single_word) {
      TEQ_ASSIGN_OR_RETURN(const bool beside,
                           IsWordBeside(text.substr(0, begin), text.substr(end)));
      if (beside) continue;
    }
    while (token->lstrip && begin > done) {
      const std::size_t size = LastCharacterSize(text.substr(0, begin));
      TEQ_ASSIGN_OR_RETURN(const bool space, Matches(space_, text.substr(begin - size, size)));
      if (!space) break;
      begin -= size;
    }
    while (token->rstrip && end < text.size()) {
      const std::size_t size = FirstCharacterSize(text.substr(end));
      TEQ_ASSIGN_OR_RETURN(const bool space, Matches(space_, text.substr(end, size)));
      if (!space) break;
      end += size;
    }
    add_text(done, begin);
    pieces.push_back({.text = token->content, .id = token->id});
    done = end;
  }
  add_text(done, text.size());
  return absl::OkStatus();
}

absl::Status AddedTokenFinder::Split(std::vector<Piece>& pieces) const {
  std::vector<Piece> result;
  for (Piece& piece : pieces) {
    if (piece.id) {
      result.push_back(std::move(piece));
    } else {
      TEQ_RETURN_IF_ERROR(SplitPiece(piece, result));
    }
  }
  pieces = std::move(result);
  return absl::OkStatus();
}

}  // namespace teq::text
