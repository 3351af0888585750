#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace teq::text {

/// Calls `use` with every line of `bytes` that is not blank, as JSON, and "<name>:<number>"; stops
/// at the first error. A line that is not JSON is INVALID_ARGUMENT with `reason`.
[[nodiscard]] absl::Status ForEachJsonLine(
    std::string_view name, std::string_view bytes, std::string_view reason,
    const std::function<absl::Status(std::string_view where, const nlohmann::json& line)>& use);

/// What a line of calibration or evaluation data holds: text, or token ids.
using DataLine = std::variant<std::string, std::vector<std::int32_t>>;

/// An object with `text`, or with `input_ids`, all below `vocabulary_size`. INVALID_TEXT.
[[nodiscard]] absl::StatusOr<DataLine> ParseDataLine(std::string_view where,
                                                     const nlohmann::json& line,
                                                     std::int64_t vocabulary_size);

}  // namespace teq::text
