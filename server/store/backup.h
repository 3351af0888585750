#pragma once

#include <filesystem>

#include "absl/status/status.h"

namespace teq::store {

/// Copies a database as it stands at one moment to the new file `target`, synced to its disk; a
/// server may use the database meanwhile. A server opens the copy as it opens its own.
///
/// NOT_FOUND, reason DATABASE_NOT_FOUND; FAILED_PRECONDITION, NOT_OUR_DATABASE; ALREADY_EXISTS,
/// BACKUP_EXISTS where `target` is there already; errors of the medium. Then `target` is not made.
[[nodiscard]] absl::Status BackUp(const std::filesystem::path& database,
                                  const std::filesystem::path& target);

}  // namespace teq::store
