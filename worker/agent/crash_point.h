#pragma once

#include <string_view>

namespace teq::agent {

/// For fault tests: kills this process (SIGKILL) where the environment's TEQ_CRASH_AT is `name`.
/// The points, each just before its step: "complete_success", "publish_rename", "publish_manifest",
/// "complete_published".
void CrashPoint(std::string_view name);

}  // namespace teq::agent
