#pragma once

#include <string_view>

namespace teq::agent {

/// For fault tests: kills this process (SIGKILL) where the environment's TEQ_CRASH_AT is `name`,
/// and pauses it (SIGSTOP) where TEQ_STOP_AT is. The points, each just before its step:
/// "upload_file" and "upload_manifest", of the engine process; "complete_success",
/// "publish_rename", "publish_manifest", "publish_cleanup" and "complete_published", of the agent.
void CrashPoint(std::string_view name);

}  // namespace teq::agent
