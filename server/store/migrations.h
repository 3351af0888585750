#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "server/store/sqlite.h"

namespace teq::store {

/// PRAGMA application_id of our databases: "teqd".
inline constexpr int64_t kApplicationId = 0x74657164;

/// SQL of every migration; migration n is element n - 1. Never edited once released, only appended.
[[nodiscard]] std::span<const std::string_view> Migrations();

/// Brings a database to the newest schema, each migration in a transaction of its own. An empty
/// file becomes ours.
///
/// FAILED_PRECONDITION, and nothing is written: NOT_OUR_DATABASE where another program made it,
/// DATABASE_TOO_NEW where a newer teq-server did.
[[nodiscard]] absl::Status Migrate(Database& database, const std::filesystem::path& file);

}  // namespace teq::store
