#include "worker/engine/pipeline/disk_room.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <system_error>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::pipeline {
namespace {

namespace fs = std::filesystem;

/// A path as far as it is there.
fs::path Existing(const fs::path& path) {
  std::error_code error;
  fs::path there = fs::absolute(path, error);
  while (there.has_relative_path() && !fs::exists(there, error)) there = there.parent_path();
  return there;
}

bool OnOneFileSystem(const fs::path& one, const fs::path& other) {
  struct stat first {};
  struct stat second {};
  return ::stat(Existing(one).c_str(), &first) == 0 &&
         ::stat(Existing(other).c_str(), &second) == 0 && first.st_dev == second.st_dev;
}

}  // namespace

DiskNeed DiskNeedOf(const model_info::MemoryPlan& plan, double text_share, std::int64_t output) {
  DiskNeed need{.output = output};
  bool has_output = false;
  for (const model_info::StageMemory& stage : plan.stages) {
    has_output = has_output || stage.stage == teq::v1::STAGE_PACK;
    const auto scratch =
        static_cast<std::int64_t>(text_share * static_cast<double>(stage.least_scratch));
    need.scratch = std::max(need.scratch, scratch);
    need.together = std::max(need.together, scratch + (has_output ? output : 0));
  }
  return need;
}

absl::Status CheckRoom(const Room& room) {
  if (!room.free || room.needed <= 0 || static_cast<std::uint64_t>(room.needed) <= *room.free) {
    return absl::OkStatus();
  }
  return Error(
      absl::StatusCode::kResourceExhausted, "DISK_FULL",
      fmt::format("{}: at least {} bytes are needed there for {}, and {} are free; {}",
                  room.directory.string(), room.needed, room.purpose, *room.free, room.remedy),
      {{"path", room.directory.string()},
       {"bytes", std::to_string(room.needed)},
       {"free_bytes", std::to_string(*room.free)}});
}

std::optional<std::uint64_t> FreeBytes(const fs::path& directory) {
  std::error_code error;
  const fs::space_info space = fs::space(Existing(directory), error);
  if (error || space.capacity == 0) return std::nullopt;
  // Root may use what a file system keeps for it.
  return ::geteuid() == 0 ? space.free : space.available;
}

absl::Status CheckDisks(const DiskNeed& need, const fs::path& data, const fs::path& staging) {
  if (OnOneFileSystem(data, staging)) {
    return CheckRoom({.directory = data,
                      .needed = need.together,
                      .free = FreeBytes(data),
                      .purpose = "scratch files and the output",
                      .remedy = "free space there, or give the worker another --data"});
  }
  TEQ_RETURN_IF_ERROR(CheckRoom({.directory = data,
                                 .needed = need.scratch,
                                 .free = FreeBytes(data),
                                 .purpose = "scratch files",
                                 .remedy = "free space there, or give the worker another --data"}));
  return CheckRoom({.directory = staging,
                    .needed = need.output,
                    .free = FreeBytes(staging),
                    .purpose = "the output",
                    .remedy = "free space there, or choose another output.uri"});
}

}  // namespace teq::pipeline
