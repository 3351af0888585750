#pragma once

#include <string_view>

namespace teq {

/// Whether `text` is valid UTF-8, as every string field of a message must be.
[[nodiscard]] bool IsUtf8(std::string_view text);

}  // namespace teq
