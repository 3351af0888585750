#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "proto/spec/error.h"

namespace teq::cli {

/// The command line is wrong: INVALID_ARGUMENT, reason USAGE.
[[nodiscard]] inline absl::Status Usage(std::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, "USAGE", message);
}

}  // namespace teq::cli
