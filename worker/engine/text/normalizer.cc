#include "worker/engine/text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <iterator>
#include <memory>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/byte_level.h"
#include "worker/engine/text/pattern.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

constexpr std::string_view kSupported =
    "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, ByteLevel";

using Steps = std::vector<NormalizerStep>;

absl::Status Failed(std::string_view step, std::string_view why) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
               fmt::format("the normalizer {} failed: {}", step, why));
}

// By utf8proc's tables, of Unicode 14 or later; the reference's are older, and leave newer
// characters as they are.
NormalizerStep UnicodeForm(std::string name, int options) {
  return [name = std::move(name), options](Piece& piece) -> absl::Status {
    utf8proc_uint8_t* result = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(piece.text.data()),
                     static_cast<utf8proc_ssize_t>(piece.text.size()), &result,
                     static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
    if (size < 0) return Failed(name, utf8proc_errmsg(size));
    piece.text.assign(reinterpret_cast<const char*>(result), static_cast<std::size_t>(size));
    return absl::OkStatus();
  };
}

absl::Status Lowercase(Piece& piece) {
  std::string lower;
  lower.reserve(piece.text.size());
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(piece.text.data());
  auto left = static_cast<utf8proc_ssize_t>(piece.text.size());
  while (left > 0) {
    utf8proc_int32_t character = 0;
    const utf8proc_ssize_t size = utf8proc_iterate(data, left, &character);
    if (size <= 0) return Failed("Lowercase", utf8proc_errmsg(size));
    // The one letter whose lower case is two.
    constexpr utf8proc_int32_t kCapitalIWithDot = 0x130;
    if (character == kCapitalIWithDot) {
      lower += "i\xcc\x87";
    } else {
      AppendUtf8(static_cast<std::uint32_t>(utf8proc_tolower(character)), lower);
    }
    data += size;
    left -= size;
  }
  piece.text = std::move(lower);
  return absl::OkStatus();
}

absl::StatusOr<Steps> ParsePrepend(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(auto prefix, part["prepend"].String());
  return Steps{[prefix = std::move(prefix)](Piece& piece) {
    if (!piece.text.empty()) piece.text.insert(0, prefix);
    return absl::OkStatus();
  }};
}

absl::StatusOr<Steps> ParseReplace(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(auto pattern, ParsePattern(part["pattern"]));
  TEQ_ASSIGN_OR_RETURN(auto content, part["content"].String());
  return Steps{[pattern = std::move(pattern), content = std::move(content)](Piece& piece) {
    TEQ_ASSIGN_OR_RETURN(const auto spans, pattern.Split(piece.text));
    std::string replaced;
    replaced.reserve(piece.text.size());
    for (const Span& span : spans) {
      if (span.matched) {
        replaced += content;
      } else {
        replaced.append(piece.text, span.begin, span.end - span.begin);
      }
    }
    // The reference takes what replaces several characters as standing where the last of them
    // stood.
    const Span& first = spans.front();
    const std::size_t first_character = FirstCharacterSize(piece.text);
    if (first.matched && (content.empty() || first.end > first_character)) piece.at_start = false;
    piece.text = std::move(replaced);
    return absl::OkStatus();
  }};
}

absl::StatusOr<Steps> ParseStrip(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const bool left, part["strip_left"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(const bool right, part["strip_right"].BoolOr(false));
  TEQ_ASSIGN_OR_RETURN(const auto pattern, Pattern::Regex("\\A\\s+|\\s+\\z"));
  return Steps{[pattern, left, right](Piece& piece) {
    TEQ_ASSIGN_OR_RETURN(const auto spans, pattern.Split(piece.text));
    const bool strip_left = left && spans.front().matched;
    const bool strip_right = right && spans.back().matched;
    const std::size_t begin = strip_left ? spans.front().end : 0;
    const std::size_t end = strip_right ? spans.back().begin : piece.text.size();
    piece.text = begin < end ? piece.text.substr(begin, end - begin) : "";
    piece.at_start = piece.at_start && !strip_left;
    return absl::OkStatus();
  }};
}

absl::StatusOr<Steps> ParseSequence(const JsonPart& part) {
  Steps steps;
  TEQ_ASSIGN_OR_RETURN(const auto parts, part["normalizers"].List());
  for (const JsonPart& each : parts) {
    TEQ_ASSIGN_OR_RETURN(auto more, ParseNormalizer(each));
    std::ranges::move(more, std::back_inserter(steps));
  }
  return steps;
}

}  // namespace

absl::StatusOr<Steps> ParseNormalizer(const JsonPart& part) {
  if (!part.present()) return Steps{};
  TEQ_ASSIGN_OR_RETURN(const std::string type, part["type"].String());
  if (type == "Sequence") return ParseSequence(part);
  if (type == "Prepend") return ParsePrepend(part);
  if (type == "Replace") return ParseReplace(part);
  if (type == "Strip") return ParseStrip(part);
  if (type == "Lowercase") return Steps{Lowercase};
  if (type == "NFC") return Steps{UnicodeForm(type, UTF8PROC_COMPOSE)};
  if (type == "NFD") return Steps{UnicodeForm(type, UTF8PROC_DECOMPOSE)};
  if (type == "NFKC") return Steps{UnicodeForm(type, UTF8PROC_COMPOSE | UTF8PROC_COMPAT)};
  if (type == "NFKD") return Steps{UnicodeForm(type, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT)};
  if (type == "ByteLevel") {
    return Steps{[](Piece& piece) {
      piece.text = BytesToCharacters(piece.text);
      return absl::OkStatus();
    }};
  }
  return part["type"].Unsupported(type, kSupported);
}

}  // namespace teq::text
