#pragma once

#include <filesystem>
#include <memory>

#include "client/objects/object_store.h"

namespace teq::objects {

/// A directory as a store; it and the directories of keys are made by the first write. The
/// directory itself may be reached by symbolic links; below it none is followed:
/// FAILED_PRECONDITION, SYMBOLIC_LINK, names it, and List leaves it out. An etag names the file's
/// inode, size and times. Errors else as file.h: a missing object is NOT_FOUND, FILE_NOT_FOUND.
[[nodiscard]] std::shared_ptr<ObjectStore> OpenLocalStore(const std::filesystem::path& directory);

}  // namespace teq::objects
