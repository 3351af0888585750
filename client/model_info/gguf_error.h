#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::model_info {

/// INVALID_ARGUMENT, FORMAT_CANNOT_HOLD: a GGUF file has no place for `what`. `remedy` is what one
/// can do instead of leaving the format out. CheckFormats puts the format's name before it.
[[nodiscard]] inline absl::Status GgufCannotHold(std::string_view what,
                                                 std::string_view remedy = {}) {
  return Error(absl::StatusCode::kInvalidArgument, "FORMAT_CANNOT_HOLD",
               fmt::format("{}{}{}", what, remedy.empty() ? "" : "; ", remedy));
}

}  // namespace teq::model_info
