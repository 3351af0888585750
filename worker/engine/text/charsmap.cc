#include "worker/engine/text/charsmap.h"

#include <utf8proc.h>

#include <cstring>
#include <utility>

#include "fmt/format.h"
#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

// The fields of a unit of Darts-clone's array.
bool HasLeaf(std::uint32_t unit) { return (unit >> 8 & 1) == 1; }
std::uint32_t Value(std::uint32_t unit) { return unit & 0x7FFFFFFF; }
std::uint32_t Label(std::uint32_t unit) { return unit & 0x800000FF; }
std::uint32_t Offset(std::uint32_t unit) { return (unit >> 10) << ((unit & 1U << 9) >> 6); }

// Bytes of the grapheme cluster that starts `text`.
std::size_t FirstGraphemeSize(std::string_view text) {
  const auto at = [text](std::size_t place) {
    utf8proc_int32_t character = 0;
    (void)utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + place,
                           static_cast<utf8proc_ssize_t>(text.size() - place), &character);
    return character;
  };
  utf8proc_int32_t state = 0;
  std::size_t size = FirstCharacterSize(text);
  utf8proc_int32_t last = at(0);
  while (size < text.size()) {
    const utf8proc_int32_t next = at(size);
    if (utf8proc_grapheme_break_stateful(last, next, &state)) break;
    size += FirstCharacterSize(text.substr(size));
    last = next;
  }
  return size;
}

absl::Status Malformed(std::string_view what) {
  return {absl::StatusCode::kInvalidArgument,
          fmt::format("is no table of SentencePiece's: {}", what)};
}

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Create(std::string_view bytes) {
  std::uint32_t trie_bytes = 0;
  if (bytes.size() < sizeof(trie_bytes)) {
    return Malformed(fmt::format("it has {} bytes", bytes.size()));
  }
  std::memcpy(&trie_bytes, bytes.data(), sizeof(trie_bytes));
  bytes.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes == 0 || trie_bytes > bytes.size() || trie_bytes % sizeof(std::uint32_t) != 0) {
    return Malformed(fmt::format("its trie has {} bytes, and {} follow", trie_bytes, bytes.size()));
  }
  std::vector<std::uint32_t> units(trie_bytes / sizeof(std::uint32_t));
  std::memcpy(units.data(), bytes.data(), trie_bytes);
  const std::string_view replacements = bytes.substr(trie_bytes);
  if (RepairUtf8(replacements) != replacements) return Malformed("its replacements are not UTF-8");
  return Charsmap(std::move(units), std::string(replacements));
}

std::optional<std::string_view> Charsmap::Find(std::string_view text) const {
  std::size_t node = Offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    node ^= byte;
    if (byte == 0 || node >= units_.size() || Label(units_[node]) != byte) return std::nullopt;
    const bool found = HasLeaf(units_[node]);
    node ^= Offset(units_[node]);
    if (!found) continue;
    if (node >= units_.size() || Value(units_[node]) >= replacements_.size()) return std::nullopt;
    const std::string_view rest = std::string_view(replacements_).substr(Value(units_[node]));
    return rest.substr(0, rest.find('\0'));
  }
  return std::nullopt;
}

std::string Charsmap::Normalize(std::string_view text) const {
  constexpr std::size_t kWholeBelow = 6;
  std::string normalized;
  normalized.reserve(text.size());
  while (!text.empty()) {
    std::string_view grapheme = text.substr(0, FirstGraphemeSize(text));
    text.remove_prefix(grapheme.size());
    if (grapheme.size() < kWholeBelow) {
      if (const auto found = Find(grapheme)) {
        normalized += *found;
        continue;
      }
    }
    while (!grapheme.empty()) {
      const std::string_view character = grapheme.substr(0, FirstCharacterSize(grapheme));
      grapheme.remove_prefix(character.size());
      normalized += Find(character).value_or(character);
    }
  }
  return normalized;
}

std::optional<std::string> DecodeBase64(std::string_view text) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (text.size() % 4 != 0) return std::nullopt;
  while (text.ends_with('=') && text.size() % 4 != 2) text.remove_suffix(1);
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 2);
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t digit = kAlphabet.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count);
  }
  return bytes;
}

}  // namespace teq::text
