#pragma once

#include <string>
#include <string_view>

namespace teq::text {

/// Every byte as one printable character: GPT-2's alphabet, in which byte-level vocabularies are
/// written. A space is U+0120, a line feed U+010A.
[[nodiscard]] std::string BytesToCharacters(std::string_view bytes);

}  // namespace teq::text
