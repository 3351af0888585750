#pragma once

#include <atomic>

#include "absl/status/status.h"
#include "proto/spec/error.h"

namespace teq {

/// CANCELLED, CANCELLED once `cancelled` is set.
[[nodiscard]] inline absl::Status CheckCancelled(const std::atomic<bool>& cancelled) {
  if (!cancelled) return absl::OkStatus();
  return Error(absl::StatusCode::kCancelled, "CANCELLED", "the run was cancelled");
}

}  // namespace teq
