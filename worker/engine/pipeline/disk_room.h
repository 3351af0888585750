#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "client/model_info/memory_plan.h"

namespace teq::pipeline {

/// What a run is certain to have on disks at one time, bytes. It may have more: a run that would
/// fit is never refused for it.
struct DiskNeed {
  std::int64_t scratch = 0;   // in scratch files
  std::int64_t output = 0;    // of all formats, before they are published
  std::int64_t together = 0;  // both: the output comes when most scratch files are gone
};

/// `text_share`: of the samples that the job asks for those that the calibration text has.
/// `output`: as model_info::OutputBytes, of all formats.
[[nodiscard]] DiskNeed DiskNeedOf(const model_info::MemoryPlan& plan, double text_share,
                                  std::int64_t output);

/// What is asked of a directory's file system.
struct Room {
  std::filesystem::path directory;
  std::int64_t needed = 0;            // bytes
  std::optional<std::uint64_t> free;  // bytes; nothing where the file system does not tell
  std::string_view purpose;
  std::string_view remedy;
};

/// OK where there is enough, or nobody knows. RESOURCE_EXHAUSTED, DISK_FULL: names the directory,
/// both numbers, the purpose and the remedy.
[[nodiscard]] absl::Status CheckRoom(const Room& room);

/// Bytes that this process may write below a directory, which need not be there yet. Nothing where
/// the file system does not tell, or says that it has no size.
[[nodiscard]] std::optional<std::uint64_t> FreeBytes(const std::filesystem::path& directory);

/// CheckRoom of both directories, which may lie on one file system: a worker's data directory,
/// where the scratch files lie, and the directory in which the output is staged.
[[nodiscard]] absl::Status CheckDisks(const DiskNeed& need, const std::filesystem::path& data,
                                      const std::filesystem::path& staging);

}  // namespace teq::pipeline
