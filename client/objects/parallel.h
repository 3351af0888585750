#pragma once

#include <cstddef>
#include <functional>

#include "absl/status/status.h"

namespace teq::objects {

/// Calls `task` with 0 to count - 1, at most `at_once` at a time, on threads that end before this
/// returns. After the first error no task is begun any more; that error is returned.
[[nodiscard]] absl::Status ForEachInParallel(std::size_t count, int at_once,
                                             const std::function<absl::Status(std::size_t)>& task);

}  // namespace teq::objects
