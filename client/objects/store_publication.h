#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/objects/object_store.h"
#include "client/objects/publication.h"

namespace teq::objects {

/// Publication::Begin for an object store: `store` is the output, files are staged below
/// <data>/staging.
[[nodiscard]] absl::StatusOr<Publication> BeginInStore(
    std::shared_ptr<ObjectStore> store, const std::filesystem::path& data,
    const Publisher& publisher, const std::vector<std::string>& format_directories);

/// Publication::Find for an object store.
[[nodiscard]] Publication FindInStore(std::shared_ptr<ObjectStore> store,
                                      const std::filesystem::path& data,
                                      const Publisher& publisher);

}  // namespace teq::objects
