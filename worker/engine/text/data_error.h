#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace teq::text {

/// INVALID_ARGUMENT: "<where>: <what>".
[[nodiscard]] absl::Status DataError(std::string_view reason, std::string_view where,
                                     std::string_view what);

/// An error, with `reason`, where the tokenizer gave an id that the model does not have.
[[nodiscard]] absl::Status CheckTokenizerIds(std::string_view reason, std::string_view where,
                                             const std::vector<std::int32_t>& ids,
                                             std::int64_t vocabulary_size);

/// TEXT_TOO_SHORT: `found` tokens where one window needs `needed`.
[[nodiscard]] absl::Status TooShort(const std::filesystem::path& file, std::string_view found,
                                    std::int64_t needed);

}  // namespace teq::text
