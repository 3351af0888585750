#include "worker/engine/text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <iterator>
#include <memory>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/text/byte_level.h"
#include "worker/engine/text/charsmap.h"
#include "worker/engine/text/pattern.h"
#include "worker/engine/text/unicode_age.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

constexpr std::string_view kSupported =
    "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, "
    "Precompiled, ByteLevel";

using Steps = std::vector<NormalizerStep>;

absl::Status Failed(std::string_view step, std::string_view why) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER",
               fmt::format("the normalizer {} failed: {}", step, why));
}

absl::Status AppendForm(std::string_view text, int options, std::string& result) {
  utf8proc_uint8_t* form = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &form,
                   static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(form, &std::free);
  if (size < 0) return Failed("to a Unicode normal form", utf8proc_errmsg(size));
  result.append(reinterpret_cast<const char*>(form), static_cast<std::size_t>(size));
  return absl::OkStatus();
}

absl::StatusOr<Steps> ParseUnicodeForm(int options) {
  TEQ_ASSIGN_OR_RETURN(const auto unknown,
                       Pattern::Regex(fmt::format("[{}]", kUnknownToNormalizers)));
  return Steps{[unknown, options](Piece& piece) -> absl::Status {
    TEQ_ASSIGN_OR_RETURN(const auto spans, unknown.Split(piece.text));
    std::string result;
    result.reserve(piece.text.size());
    for (const Span& span : spans) {
      const auto part = std::string_view(piece.text).substr(span.begin, span.end - span.begin);
      if (span.matched) {
        result += part;
      } else {
        TEQ_RETURN_IF_ERROR(AppendForm(part, options, result));
      }
    }
    piece.text = std::move(result);
    return absl::OkStatus();
  }};
}

// By utf8proc's tables, of Unicode 15; the reference's have later letters too.
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

absl::StatusOr<Steps> ParseStripAccents() {
  // Two letters were marks once.
  TEQ_ASSIGN_OR_RETURN(const auto marks,
                       Pattern::Regex(fmt::format("(?![{}])[\\p{{M}}\\x{{1CF2}}\\x{{1CF3}}]",
                                                  kUnknownToNormalizers)));
  return Steps{[marks](Piece& piece) {
    TEQ_ASSIGN_OR_RETURN(const auto spans, marks.Split(piece.text));
    std::string stripped;
    stripped.reserve(piece.text.size());
    for (const Span& span : spans) {
      if (!span.matched) stripped.append(piece.text, span.begin, span.end - span.begin);
    }
    piece.text = std::move(stripped);
    piece.at_start = piece.at_start && !spans.front().matched;
    return absl::OkStatus();
  }};
}

absl::StatusOr<Steps> ParsePrecompiled(const JsonPart& part) {
  const JsonPart field = part["precompiled_charsmap"];
  TEQ_ASSIGN_OR_RETURN(const std::string text, field.String());
  const auto bytes = DecodeBase64(text);
  if (!bytes) return field.Invalid("is not base64");
  const auto charsmap = Charsmap::Create(*bytes);
  if (!charsmap.ok()) return field.Invalid(std::string(charsmap.status().message()));
  return Steps{[shared = std::make_shared<const Charsmap>(*charsmap)](Piece& piece) {
    piece.text = shared->Normalize(piece.text);
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
  if (type == "StripAccents") return ParseStripAccents();
  if (type == "Precompiled") return ParsePrecompiled(part);
  if (type == "Lowercase") return Steps{Lowercase};
  if (type == "NFC") return ParseUnicodeForm(UTF8PROC_COMPOSE);
  if (type == "NFD") return ParseUnicodeForm(UTF8PROC_DECOMPOSE);
  if (type == "NFKC") return ParseUnicodeForm(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (type == "NFKD") return ParseUnicodeForm(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (type == "ByteLevel") {
    return Steps{[](Piece& piece) {
      piece.text = BytesToCharacters(piece.text);
      return absl::OkStatus();
    }};
  }
  return part["type"].Unsupported(type, kSupported);
}

}  // namespace teq::text
