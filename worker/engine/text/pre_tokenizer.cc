#include "worker/engine/text/pre_tokenizer.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/byte_level.h"
#include "worker/engine/text/pattern.h"
#include "worker/engine/text/unicode_age.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

constexpr std::string_view kSupported =
    "Sequence, ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
    "CharDelimiterSplit";
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using Steps = std::vector<PreTokenizerStep>;

// What becomes of the matches of a pattern.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

absl::StatusOr<Behavior> ParseBehavior(const JsonPart& part, std::string_view fallback) {
  TEQ_ASSIGN_OR_RETURN(const std::string name, part.StringOr(fallback));
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return part.Unsupported(name,
                          "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

// Spans that stand together become one, in place. `joins(span, neighbour_matched)` tells whether a
// span goes to the one before it in this order.
template <typename Joins>
void Merge(std::vector<Span>& spans, Joins joins) {
  std::vector<Span> merged;
  bool previous_matched = false;
  for (const Span& span : spans) {
    if (!merged.empty() && joins(span.matched, previous_matched)) {
      merged.back().begin = std::min(merged.back().begin, span.begin);
      merged.back().end = std::max(merged.back().end, span.end);
    } else {
      merged.push_back(span);
    }
    previous_matched = span.matched;
  }
  spans = std::move(merged);
}

void Apply(Behavior behavior, std::vector<Span>& spans) {
  const auto new_match = [](bool matched, bool previous) { return matched && !previous; };
  switch (behavior) {
    case Behavior::kRemoved:
      std::erase_if(spans, [](const Span& span) { return span.matched; });
      return;
    case Behavior::kIsolated:
      return;
    case Behavior::kContiguous:
      return Merge(spans, [](bool matched, bool previous) { return matched == previous; });
    case Behavior::kMergedWithPrevious:
      return Merge(spans, new_match);
    case Behavior::kMergedWithNext:
      std::ranges::reverse(spans);
      Merge(spans, new_match);
      std::ranges::reverse(spans);
      return;
  }
}

struct Splitter {
  Pattern pattern;
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;

  [[nodiscard]] absl::Status Split(const Piece& piece, std::vector<Piece>& pieces) const {
    TEQ_ASSIGN_OR_RETURN(auto spans, pattern.Split(piece.text));
    for (Span& span : spans) span.matched = span.matched != invert;
    Apply(behavior, spans);
    for (const Span& span : spans) {
      if (span.begin == span.end) continue;
      pieces.push_back({.text = piece.text.substr(span.begin, span.end - span.begin),
                        .at_start = piece.at_start && span.begin == 0});
    }
    return absl::OkStatus();
  }

  absl::Status operator()(std::vector<Piece>& pieces) const {
    std::vector<Piece> result;
    result.reserve(pieces.size());
    for (Piece& piece : pieces) {
      if (piece.id) {
        result.push_back(std::move(piece));
      } else {
        TEQ_RETURN_IF_ERROR(Split(piece, result));
      }
    }
    pieces = std::move(result);
    return absl::OkStatus();
  }
};

// Changes the text of every piece that is no added token.
template <typename Edit>
PreTokenizerStep ForEachText(Edit edit) {
  return [edit = std::move(edit)](std::vector<Piece>& pieces) {
    for (Piece& piece : pieces) {
      if (!piece.id) edit(piece);
    }
    return absl::OkStatus();
  };
}

absl::StatusOr<Steps> SplitAt(std::string_view regex, Behavior behavior) {
  TEQ_ASSIGN_OR_RETURN(auto pattern, Pattern::Regex(regex));
  return Steps{Splitter{std::move(pattern), behavior}};
}

absl::StatusOr<Steps> ParseSplit(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(auto pattern, ParsePattern(part["pattern"]));
  TEQ_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(part["behavior"], "Isolated"));
  TEQ_ASSIGN_OR_RETURN(const bool invert, part["invert"].BoolOr(false));
  return Steps{Splitter{std::move(pattern), behavior, invert}};
}

absl::StatusOr<Steps> ParseByteLevel(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const bool add_prefix_space, part["add_prefix_space"].BoolOr(true));
  TEQ_ASSIGN_OR_RETURN(const bool use_regex, part["use_regex"].BoolOr(true));
  Steps steps;
  if (add_prefix_space) {
    steps.push_back(ForEachText([](Piece& piece) {
      if (!piece.text.starts_with(' ')) piece.text.insert(0, " ");
    }));
  }
  if (use_regex) {
    TEQ_ASSIGN_OR_RETURN(auto pattern, Pattern::Regex(kGpt2Pattern));
    steps.emplace_back(Splitter{std::move(pattern), Behavior::kIsolated});
  }
  steps.push_back(ForEachText([](Piece& piece) { piece.text = BytesToCharacters(piece.text); }));
  return steps;
}

enum class Prepend { kAlways, kFirst, kNever };

absl::StatusOr<Prepend> ParsePrependScheme(const JsonPart& part) {
  const JsonPart scheme = part["prepend_scheme"];
  // Files of older versions have only add_prefix_space.
  TEQ_ASSIGN_OR_RETURN(const bool add_prefix_space, part["add_prefix_space"].BoolOr(true));
  TEQ_ASSIGN_OR_RETURN(const std::string name,
                       scheme.StringOr(add_prefix_space ? "always" : "never"));
  if (!add_prefix_space && name != "never") {
    return scheme.Invalid(fmt::format("is {}, but add_prefix_space is false", name));
  }
  if (name == "always") return Prepend::kAlways;
  if (name == "first") return Prepend::kFirst;
  if (name == "never") return Prepend::kNever;
  return scheme.Unsupported(name, "always, first, never");
}

absl::StatusOr<Steps> ParseMetaspace(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const std::string replacement, part["replacement"].String());
  if (replacement.empty() || FirstCharacterSize(replacement) != replacement.size()) {
    return part["replacement"].Invalid("must be one character");
  }
  TEQ_ASSIGN_OR_RETURN(const Prepend prepend, ParsePrependScheme(part));
  TEQ_ASSIGN_OR_RETURN(const bool split, part["split"].BoolOr(true));
  Steps steps = {ForEachText([replacement, prepend](Piece& piece) {
    std::string text;
    text.reserve(piece.text.size());
    for (const char c : piece.text) {
      if (c == ' ') {
        text += replacement;
      } else {
        text += c;
      }
    }
    const bool wanted =
        prepend == Prepend::kAlways || (prepend == Prepend::kFirst && piece.at_start);
    if (wanted && !text.starts_with(replacement)) text.insert(0, replacement);
    piece.text = std::move(text);
  })};
  if (split) {
    TEQ_ASSIGN_OR_RETURN(auto pattern, Pattern::Literal(replacement));
    steps.emplace_back(Splitter{std::move(pattern), Behavior::kMergedWithNext});
  }
  return steps;
}

absl::StatusOr<Steps> ParseDigits(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const bool individual, part["individual_digits"].BoolOr(false));
  return SplitAt("\\p{N}", individual ? Behavior::kIsolated : Behavior::kContiguous);
}

absl::StatusOr<Steps> ParsePunctuation(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(part["behavior"], "Isolated"));
  // ASCII's symbols count as punctuation, and so do two characters that were such once.
  return SplitAt(
      fmt::format("(?![{}])[\\p{{P}}\\x{{166D}}\\x{{111C9}}$+<=>^`|~]", kUnknownToPunctuation),
      behavior);
}

absl::StatusOr<Steps> ParseCharDelimiterSplit(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const std::string delimiter, part["delimiter"].String());
  auto pattern = Pattern::Literal(delimiter);
  if (!pattern.ok()) return part["delimiter"].Invalid("must be one character");
  return Steps{Splitter{*std::move(pattern), Behavior::kRemoved}};
}

absl::StatusOr<Steps> ParseSequence(const JsonPart& part) {
  Steps steps;
  TEQ_ASSIGN_OR_RETURN(const auto parts, part["pretokenizers"].List());
  for (const JsonPart& each : parts) {
    TEQ_ASSIGN_OR_RETURN(auto more, ParsePreTokenizer(each));
    std::ranges::move(more, std::back_inserter(steps));
  }
  return steps;
}

}  // namespace

absl::StatusOr<Steps> ParsePreTokenizer(const JsonPart& part) {
  if (!part.present()) return Steps{};
  TEQ_ASSIGN_OR_RETURN(const std::string type, part["type"].String());
  if (type == "Sequence") return ParseSequence(part);
  if (type == "ByteLevel") return ParseByteLevel(part);
  if (type == "Metaspace") return ParseMetaspace(part);
  if (type == "Split") return ParseSplit(part);
  if (type == "Digits") return ParseDigits(part);
  if (type == "Punctuation") return ParsePunctuation(part);
  if (type == "CharDelimiterSplit") return ParseCharDelimiterSplit(part);
  if (type == "WhitespaceSplit") return SplitAt("\\s", Behavior::kRemoved);
  if (type == "Whitespace") {
    // Words and runs of other visible characters; what lies between is dropped.
    TEQ_ASSIGN_OR_RETURN(auto pattern,
                         Pattern::Regex(fmt::format("[{0}]+|[^{0}\\s]+", kWordCharacters)));
    return Steps{Splitter{std::move(pattern), Behavior::kRemoved, true}};
  }
  return part["type"].Unsupported(type, kSupported);
}

}  // namespace teq::text
