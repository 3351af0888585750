#include "worker/engine/text/bpe.h"

#include <queue>
#include <string>
#include <tuple>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

std::uint64_t PairKey(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

absl::Status RefuseSubwordMarks(const JsonPart& model) {
  for (const std::string_view field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    TEQ_ASSIGN_OR_RETURN(const std::string mark, model[field].StringOr(""));
    if (!mark.empty()) return model[field].Unsupported(fmt::format("\"{}\"", mark), "null");
  }
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> ParseVocabulary(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const auto* object, part.Object());
  Vocabulary vocabulary;
  vocabulary.reserve(object->size());
  for (const auto& [token, value] : *object) {
    const JsonPart id = part[token];
    TEQ_ASSIGN_OR_RETURN(vocabulary[token], id.Id());
  }
  if (vocabulary.empty()) return part.Invalid("is empty");
  return vocabulary;
}

}  // namespace

absl::StatusOr<Bpe> Bpe::Parse(const JsonPart& model) {
  if (model["dropout"].present()) {
    TEQ_ASSIGN_OR_RETURN(const double dropout, model["dropout"].Number());
    if (dropout != 0) {
      return model["dropout"].Invalid("makes ids random and is not supported; set it to null");
    }
  }
  TEQ_RETURN_IF_ERROR(RefuseSubwordMarks(model));
  Bpe bpe;
  TEQ_ASSIGN_OR_RETURN(bpe.fuse_unknown_, model["fuse_unk"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(bpe.byte_fallback_, model["byte_fallback"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(bpe.ignore_merges_, model["ignore_merges"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(bpe.vocabulary_, ParseVocabulary(model["vocab"]));
  if (model["unk_token"].present()) {
    TEQ_ASSIGN_OR_RETURN(const std::string unknown, model["unk_token"].String());
    bpe.unknown_ = bpe.FindToken(unknown);
    if (!bpe.unknown_) {
      return model["unk_token"].Invalid(fmt::format("\"{}\" is not in model.vocab", unknown));
    }
  }
  TEQ_RETURN_IF_ERROR(bpe.ParseMerges(model["merges"]));
  return bpe;
}

absl::Status Bpe::ParseMerges(const JsonPart& merges) {
  TEQ_ASSIGN_OR_RETURN(const auto list, merges.List());
  merges_.reserve(list.size());
  for (const JsonPart& part : list) {
    if (const auto pair = part.List(); pair.ok()) {
      if (pair->size() != 2) return part.Invalid("must have two parts");
      TEQ_ASSIGN_OR_RETURN(const std::string left, (*pair)[0].String());
      TEQ_ASSIGN_OR_RETURN(const std::string right, (*pair)[1].String());
      TEQ_RETURN_IF_ERROR(AddMerge(part, left, right));
      continue;
    }
    TEQ_ASSIGN_OR_RETURN(const std::string line, part.String());
    if (line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      return part.Invalid(
          fmt::format("is \"{}\"; it must be two parts with a space between", line));
    }
    const std::string_view view = line;
    TEQ_RETURN_IF_ERROR(AddMerge(part, view.substr(0, space), view.substr(space + 1)));
  }
  return absl::OkStatus();
}

absl::Status Bpe::AddMerge(const JsonPart& part, std::string_view left, std::string_view right) {
  const auto missing = [&](std::string_view token) {
    return part.Invalid(fmt::format("needs \"{}\", which is not in model.vocab", token));
  };
  const std::string whole = fmt::format("{}{}", left, right);
  const auto left_id = FindToken(left);
  const auto right_id = FindToken(right);
  const auto result = FindToken(whole);
  if (!left_id) return missing(left);
  if (!right_id) return missing(right);
  if (!result) return missing(whole);
  // Of two equal merges the reference keeps the later.
  merges_.insert_or_assign(PairKey(*left_id, *right_id), Merge{next_rank_++, *result});
  return absl::OkStatus();
}

const Bpe::Merge* Bpe::Find(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::optional<std::int32_t> Bpe::FindToken(std::string_view token) const {
  const auto found = vocabulary_.find(token);
  if (found == vocabulary_.end()) return std::nullopt;
  return found->second;
}

bool Bpe::AppendBytes(std::string_view character, std::vector<std::int32_t>& ids) const {
  const std::size_t before = ids.size();
  for (const char byte : character) {
    const auto id = FindToken(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
    if (!id) {
      ids.resize(before);
      return false;
    }
    ids.push_back(*id);
  }
  return true;
}

std::vector<std::int32_t> Bpe::Characters(std::string_view word) const {
  std::vector<std::int32_t> ids;
  ids.reserve(word.size());
  bool unknown_waits = false;
  const auto flush = [&] {
    if (unknown_waits) ids.push_back(*unknown_);
    unknown_waits = false;
  };
  while (!word.empty()) {
    const std::string_view character = word.substr(0, FirstCharacterSize(word));
    word.remove_prefix(character.size());
    if (const auto id = FindToken(character)) {
      flush();
      ids.push_back(*id);
      continue;
    }
    // The reference lets an unknown token wait behind the bytes that follow it; so must this.
    if (byte_fallback_ && AppendBytes(character, ids)) continue;
    if (!unknown_) continue;
    if (!fuse_unknown_) flush();
    unknown_waits = true;
  }
  flush();
  return ids;
}

void Bpe::MergeAll(const std::vector<std::int32_t>& symbols, std::vector<std::int32_t>& ids) const {
  constexpr std::int32_t kNone = -1;
  struct Node {
    std::int32_t id;
    std::int32_t previous;
    std::int32_t next;
  };
  // Rank, place, result; the least comes first.
  using Candidate = std::tuple<std::int32_t, std::int32_t, std::int32_t>;
  std::vector<Node> nodes;
  nodes.reserve(symbols.size());
  std::vector<Candidate> candidates;
  const auto size = static_cast<std::int32_t>(symbols.size());
  for (std::int32_t i = 0; i < size; ++i) {
    nodes.push_back({symbols[i], i - 1, i + 1 < size ? i + 1 : kNone});
    const Merge* merge = i + 1 < size ? Find(symbols[i], symbols[i + 1]) : nullptr;
    if (merge != nullptr) candidates.emplace_back(merge->rank, i, merge->result);
  }
  std::priority_queue queue(std::greater<Candidate>{}, std::move(candidates));
  const auto offer = [&](std::int32_t left, std::int32_t right) {
    if (const Merge* merge = Find(nodes[left].id, nodes[right].id)) {
      queue.emplace(merge->rank, left, merge->result);
    }
  };
  while (!queue.empty()) {
    const auto [rank, place, result] = queue.top();
    queue.pop();
    Node& node = nodes[place];
    if (node.id == kNone || node.next == kNone) continue;
    Node& right = nodes[node.next];
    // The pair may have changed since it was queued.
    const Merge* merge = Find(node.id, right.id);
    if (merge == nullptr || merge->result != result) continue;
    node.id = result;
    node.next = right.next;
    right.id = kNone;
    if (node.next != kNone) {
      nodes[node.next].previous = place;
      offer(place, node.next);
    }
    if (node.previous != kNone) offer(node.previous, place);
  }
  for (const Node& node : nodes) {
    if (node.id != kNone) ids.push_back(node.id);
  }
}

absl::Status Bpe::Encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = FindToken(word)) {
      ids.push_back(*id);
      return absl::OkStatus();
    }
  }
  MergeAll(Characters(word), ids);
  return absl::OkStatus();
}

}  // namespace teq::text
