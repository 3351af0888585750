#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace teq::text {

/// U+FFFD.
inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

/// `text` with every maximal part that is not UTF-8 replaced by U+FFFD: what Python reads with
/// errors="replace", and what the WHATWG's decoder does.
[[nodiscard]] std::string RepairUtf8(std::string_view text);

/// Bytes of the character that starts valid UTF-8 text; 0 for empty text.
[[nodiscard]] std::size_t FirstCharacterSize(std::string_view text);

/// Bytes of the character that ends valid UTF-8 text; 0 for empty text.
[[nodiscard]] std::size_t LastCharacterSize(std::string_view text);

/// Appends a code point as UTF-8.
void AppendUtf8(std::uint32_t code_point, std::string& text);

}  // namespace teq::text
