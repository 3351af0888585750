#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace teq::objects {

/// Whether `key` can name an object of an ObjectStore: OK, or INVALID_ARGUMENT, INVALID_KEY, which
/// says what is wrong: empty, absolute, a segment that is empty, "." or "..", a control character,
/// not UTF-8, more than 1,024 bytes.
[[nodiscard]] absl::Status CheckKey(std::string_view key);

}  // namespace teq::objects
