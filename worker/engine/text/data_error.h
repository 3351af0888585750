#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "absl/status/status.h"

namespace teq::text {

/// INVALID_ARGUMENT: "<where>: <what>".
[[nodiscard]] absl::Status DataError(std::string_view reason, std::string_view where,
                                     std::string_view what);

/// TEXT_TOO_SHORT: `found` tokens where one window needs `needed`.
[[nodiscard]] absl::Status TooShort(const std::filesystem::path& file, std::string_view found,
                                    std::int64_t needed);

}  // namespace teq::text
