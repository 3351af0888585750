#include "client/model_info/file_version.h"

#include <sys/stat.h>

#include <string>

#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

FileVersion Version(const struct stat& info) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  return {.bytes = static_cast<std::uint64_t>(info.st_size),
          .modified_ns = std::int64_t{info.st_mtim.tv_sec} * kSecond + info.st_mtim.tv_nsec};
}

std::string TimeText(std::int64_t nanoseconds) {
  using google::protobuf::util::TimeUtil;
  return TimeUtil::ToString(TimeUtil::NanosecondsToTimestamp(nanoseconds));
}

std::string Difference(const std::optional<FileVersion>& before,
                       const std::optional<FileVersion>& now) {
  if (!now) return "is gone";
  if (!before) return "was not there when the run began";
  if (now->bytes != before->bytes) {
    return fmt::format("has {} bytes, and had {} when the run began", now->bytes, before->bytes);
  }
  return fmt::format("was last written at {}, and before the run began at {}",
                     TimeText(now->modified_ns), TimeText(before->modified_ns));
}

}  // namespace

std::optional<FileVersion> VersionOf(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return std::nullopt;
  return Version(info);
}

std::optional<FileVersion> VersionOf(int descriptor) {
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) return std::nullopt;
  return Version(info);
}

absl::Status CheckVersion(const std::filesystem::path& file,
                          const std::optional<FileVersion>& before,
                          const std::optional<FileVersion>& now) {
  if (before == now) return absl::OkStatus();
  return Error(absl::StatusCode::kFailedPrecondition, "OBJECT_CHANGED",
               fmt::format("{}: {}; what is published would be of two models; leave a model's "
                           "files alone while a job reads them, and submit the job again",
                           file.string(), Difference(before, now)),
               {{"path", file.string()}});
}

}  // namespace teq::model_info
