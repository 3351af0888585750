#include "worker/engine/text/unigram.h"

#include <algorithm>
#include <limits>
#include <ranges>
#include <string>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

constexpr double kUnknownPenalty = 10;

std::uint64_t EdgeKey(std::uint32_t node, char byte) {
  return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

absl::StatusOr<Unigram> Unigram::Parse(const JsonPart& model) {
  Unigram unigram;
  unigram.ends_.resize(1);
  TEQ_ASSIGN_OR_RETURN(unigram.byte_fallback_, model["byte_fallback"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(const auto pieces, model["vocab"].List());
  if (pieces.empty()) return model["vocab"].Invalid("is empty");
  double lowest = std::numeric_limits<double>::infinity();
  for (const JsonPart& part : pieces) {
    TEQ_ASSIGN_OR_RETURN(const auto pair, part.List());
    if (pair.size() != 2) return part.Invalid("must be a piece and its score");
    TEQ_ASSIGN_OR_RETURN(const std::string piece, pair[0].String());
    TEQ_ASSIGN_OR_RETURN(const double score, pair[1].Number());
    const auto id = static_cast<std::int32_t>(unigram.scores_.size());
    const auto [known, added] = unigram.vocabulary_.emplace(piece, id);
    if (!added) {
      return part.Invalid(fmt::format("is \"{}\", as model.vocab[{}] is already; remove one", piece,
                                      known->second));
    }
    unigram.scores_.push_back(score);
    unigram.Insert(piece, id);
    lowest = std::min(lowest, score);
  }
  unigram.unknown_score_ = lowest - kUnknownPenalty;
  if (model["unk_id"].present()) {
    TEQ_ASSIGN_OR_RETURN(unigram.unknown_, model["unk_id"].Id());
    if (static_cast<std::size_t>(*unigram.unknown_) >= pieces.size()) {
      return model["unk_id"].Invalid(
          fmt::format("is {}; model.vocab has {} pieces", *unigram.unknown_, pieces.size()));
    }
  }
  return unigram;
}

void Unigram::Insert(std::string_view piece, std::int32_t id) {
  if (piece.empty()) return;
  Node node = 0;
  for (const char byte : piece) {
    const auto [edge, added] =
        edges_.try_emplace(EdgeKey(node, byte), static_cast<Node>(ends_.size()));
    if (added) ends_.emplace_back();
    node = edge->second;
  }
  ends_[node] = id;
}

absl::StatusOr<std::vector<Unigram::Step>> Unigram::BestSteps(std::string_view word) const {
  std::vector<Step> steps(word.size() + 1);
  const auto offer = [&steps](std::size_t begin, std::size_t end, double score, std::int32_t id) {
    const double sum = score + steps[begin].score;
    Step& step = steps[end];
    if (!step.begin || sum > step.score) step = {sum, id, begin};
  };
  for (std::size_t begin = 0; begin < word.size();) {
    const std::size_t character = FirstCharacterSize(word.substr(begin));
    bool character_is_piece = false;
    Node node = 0;
    for (std::size_t end = begin; end < word.size();) {
      const auto edge = edges_.find(EdgeKey(node, word[end]));
      if (edge == edges_.end()) break;
      node = edge->second;
      ++end;
      if (!ends_[node]) continue;
      offer(begin, end, scores_[static_cast<std::size_t>(*ends_[node])], *ends_[node]);
      character_is_piece = character_is_piece || end - begin == character;
    }
    if (!character_is_piece) {
      if (!unknown_) {
        return Error(
            absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
            fmt::format("tokenizer.json: model.unk_id is null, and no piece of model.vocab "
                        "holds the text's character \"{}\"; set model.unk_id",
                        word.substr(begin, character)));
      }
      offer(begin, begin + character, unknown_score_, *unknown_);
    }
    begin += character;
  }
  return steps;
}

bool Unigram::AppendBytes(std::string_view piece, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  for (const char byte : piece) {
    const auto found =
        vocabulary_.find(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
    if (found == vocabulary_.end()) {
      ids.resize(before);
      return false;
    }
    ids.push_back(found->second);
  }
  return true;
}

void Unigram::AppendPiece(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (const auto found = vocabulary_.find(piece); found != vocabulary_.end()) {
    ids.push_back(found->second);
  } else if (!byte_fallback_ || !AppendBytes(piece, ids)) {
    ids.push_back(*unknown_);  // only unknown characters make a piece that is not one
  }
}

absl::Status Unigram::Encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  TEQ_ASSIGN_OR_RETURN(const auto steps, BestSteps(word));
  std::vector<std::string_view> pieces;  // from the last to the first
  bool unknown_before = false;
  for (std::size_t end = word.size(); end > 0;) {
    const Step& step = steps[end];
    const std::size_t begin = *step.begin;
    const bool unknown = unknown_ && step.id == *unknown_;
    if (unknown && unknown_before) {
      pieces.back() = word.substr(begin, pieces.back().size() + end - begin);
    } else {
      pieces.push_back(word.substr(begin, end - begin));
    }
    unknown_before = unknown;
    end = begin;
  }
  for (const std::string_view piece : std::views::reverse(pieces)) AppendPiece(piece, ids);
  return absl::OkStatus();
}

}  // namespace teq::text
