#include "client/objects/directory_publication.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "client/objects/attempt_files.h"
#include "client/objects/manifest.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReport = "report.json";
constexpr const char* kPage = "report.html";

std::optional<Owner> ReadOwner(const fs::path& attempt) {
  const absl::StatusOr<std::string> text = ReadFile(attempt / kOwnerKey);
  return text.ok() ? ParseOwner(*text) : std::nullopt;
}

absl::Status CheckFinalPlaces(const fs::path& output, const std::vector<std::string>& directories) {
  const fs::path root = output / kManifestKey;
  if (Exists(root)) return PublishedBefore(root.string(), ReadFile(root).value_or(std::string()));
  std::vector<std::string> names = directories;
  names.emplace_back(kReport);
  names.emplace_back(kPage);
  for (const std::string& name : names) {
    if (Exists(output / name)) {
      return InUse((output / name).string(),
                   "lies there without a manifest; remove it or choose another output.uri");
    }
  }
  return absl::OkStatus();
}

// Removes one directory that an earlier attempt may have left, or says why it has to stay.
// `made_output` is passed on from it.
absl::Status ClearAttempt(const fs::path& attempt, const Publisher& publisher, bool is_own_name,
                          bool& made_output) {
  const std::optional<Owner> owner = IsDirectory(attempt) ? ReadOwner(attempt) : std::nullopt;
  std::shared_ptr<const DirectoryLock> lock;  // held while the directory goes
  if (!owner) {
    if (!is_own_name) return absl::OkStatus();
    if (IsDirectory(attempt)) {
      // Without an owner it may be a run's that began just now.
      TEQ_ASSIGN_OR_RETURN(lock, DirectoryLock::Take(attempt));
      if (::rmdir(attempt.c_str()) == 0) return absl::OkStatus();
    }
    return InUse(attempt.string(),
                 "is not an attempt of teqd's; remove it or choose another output.uri");
  }
  const bool same_job = !publisher.job_uid.empty() && owner->job_uid == publisher.job_uid;
  if (same_job && owner->fence > publisher.fence) {
    return NewerAttempt(attempt.string(), owner->fence, publisher.fence);
  }
  if (!same_job) {
    TEQ_ASSIGN_OR_RETURN(lock, DirectoryLock::Take(attempt));
    if (Exists(attempt / kManifestKey)) {
      return InUse(attempt.string(),
                   fmt::format("{} is about to publish there; wait for it, choose another "
                               "output.uri, or remove the directory if that will not happen",
                               JobOrRun(owner->job)));
    }
  }
  made_output = made_output || owner->made_output;
  return RemoveTree(attempt);
}

absl::Status ClearAttempts(const fs::path& output, const Publisher& publisher,
                           const fs::path& own_attempt, bool& made_output) {
  std::error_code error;
  std::vector<fs::path> attempts;
  for (fs::directory_iterator entry(output, error), end; !error && entry != end;
       entry.increment(error)) {
    if (IsAttemptName(entry->path().filename().string())) {
      attempts.push_back(entry->path());
    }
  }
  if (error) return WriteError(error.value(), output, 0);
  for (const fs::path& attempt : attempts) {
    TEQ_RETURN_IF_ERROR(ClearAttempt(attempt, publisher, attempt == own_attempt, made_output));
  }
  return absl::OkStatus();
}

// The files that a manifest lists, by path relative to the output, and their sizes.
absl::StatusOr<std::map<std::string, std::uint64_t>> ListedFiles(const fs::path& manifest,
                                                                 const std::string& sha256) {
  absl::StatusOr<std::string> text = ReadFile(manifest);
  if (absl::IsNotFound(text.status())) {
    return Mismatch(
        fmt::format("{}: the committed manifest {} is gone", manifest.string(), sha256));
  }
  if (!text.ok()) return text.status();
  if (const std::string found = Sha256(*text); found != sha256) {
    return Mismatch(fmt::format("{}: its sha256 is {}, the committed one is {}", manifest.string(),
                                found, sha256));
  }
  absl::StatusOr<Manifest> read = ParseManifest(*text, manifest.string());
  if (!read.ok()) return Mismatch(std::string(read.status().message()));
  std::map<std::string, std::uint64_t> files;
  for (const ManifestFile& file : read->files) files[file.path] = file.bytes;
  return files;
}

absl::Status CheckSizes(const fs::path& attempt, const fs::path& output,
                        const std::map<std::string, std::uint64_t>& files) {
  for (const auto& [path, bytes] : files) {
    // First where it was, then where it goes: another publisher may move it in between.
    std::optional<std::uint64_t> found = RegularFileSize(attempt / path);
    if (!found) found = RegularFileSize(output / path);
    if (found == bytes) continue;
    return Mismatch(fmt::format("{}: the manifest lists {} bytes, found {}",
                                (output / path).string(), bytes,
                                found ? fmt::format("{}", *found) : "no such file"));
  }
  return absl::OkStatus();
}

// Renames without replacing; 0 or the error number.
int RenameNoReplace(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A file system without RENAME_NOREPLACE: nobody but publishers of this content comes here.
  if (!Exists(from)) return ENOENT;
  if (Exists(to)) return EEXIST;
  return ::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

absl::Status MoveIntoPlace(const fs::path& from, const fs::path& to) {
  const int error = RenameNoReplace(from, to);
  if (error == EEXIST) {
    return InUse(to.string(), "came there during the run; remove it, then retry the job");
  }
  if (error == ENOENT) {
    if (Exists(to)) return absl::OkStatus();
    return Mismatch(fmt::format("{}: is gone, and so is {}", from.string(), to.string()));
  }
  if (error != 0) return WriteError(error, to, 0);
  return Sync(to.parent_path());
}

absl::Status LinkManifest(const fs::path& from, const fs::path& to, const std::string& sha256) {
  int error = ::link(from.c_str(), to.c_str()) == 0 ? 0 : errno;
  if (error == EPERM || error == EOPNOTSUPP || error == ENOSYS) error = RenameNoReplace(from, to);
  if (error == EEXIST || error == ENOENT) {
    const absl::StatusOr<std::string> found = FileSha256(to);
    if (!found.ok()) return found.status();
    if (*found != sha256) return InUse(to.string(), "another result was published there first");
    error = 0;
  }
  if (error != 0) return WriteError(error, to, 0);
  return Sync(to.parent_path());
}

// A directory as Publication says.
class DirectoryPublication final : public Publication::Attempt {
 public:
  DirectoryPublication(fs::path output, Publisher publisher)
      : output_(std::move(output)), publisher_(std::move(publisher)) {}

  [[nodiscard]] absl::Status Begin(const std::vector<std::string>& format_directories);
  [[nodiscard]] fs::path StagingDirectory(const std::string& format_directory) const override {
    return AttemptDirectory() / format_directory;
  }
  void Settle(const std::string& format_directory, const std::map<std::string, std::string>& sha256,
              const StepHook& /*hook*/) override {
    SettleFiles(AttemptDirectory(), format_directory, sha256, settled_);
  }
  [[nodiscard]] absl::StatusOr<std::string> Seal(teq::v1::Report& report,
                                                 const PageWriter& page) override;
  [[nodiscard]] absl::Status Upload(const TransferProgress& /*progress*/,
                                    const StepHook& /*hook*/) override {
    return absl::OkStatus();
  }
  [[nodiscard]] absl::Status Publish(const std::string& manifest_sha256,
                                     const StepHook& hook) override;
  [[nodiscard]] absl::Status Abandon() override;

 private:
  [[nodiscard]] fs::path AttemptDirectory() const { return output_ / AttemptName(publisher_); }

  fs::path output_;
  Publisher publisher_;
  SettledFiles settled_;
  std::shared_ptr<const DirectoryLock> lock_;
};

absl::Status DirectoryPublication::Begin(const std::vector<std::string>& format_directories) {
  const fs::path& output = output_;
  const fs::path attempt = AttemptDirectory();
  TEQ_ASSIGN_OR_RETURN(bool made_output, MakeDirectories(output));
  TEQ_RETURN_IF_ERROR(CheckFinalPlaces(output, format_directories));
  TEQ_RETURN_IF_ERROR(ClearAttempts(output, publisher_, attempt, made_output));
  if (::mkdir(attempt.c_str(), 0777) != 0) {
    const int error = errno;
    if (error == EEXIST) return InUse(attempt.string(), "another run began there at the same time");
    if (made_output) ::rmdir(output.c_str());
    return WriteError(error, attempt, 0);
  }
  absl::Status status = [&]() -> absl::Status {
    TEQ_ASSIGN_OR_RETURN(lock_, DirectoryLock::Take(attempt));
    TEQ_RETURN_IF_ERROR(
        WriteFileAtomically(attempt / kOwnerKey, OwnerText(publisher_, made_output)));
    for (const std::string& directory : format_directories) {
      const fs::path staging = StagingDirectory(directory);
      if (::mkdir(staging.c_str(), 0777) != 0) return WriteError(errno, staging, 0);
    }
    TEQ_RETURN_IF_ERROR(Sync(attempt));
    return Sync(output);
  }();
  if (!status.ok()) {
    // The first error is the one to tell. Without the lock the name may be another run's by now.
    if (lock_) RemoveTree(attempt).IgnoreError();
    if (made_output) ::rmdir(output.c_str());
  }
  return status;
}

absl::StatusOr<std::string> DirectoryPublication::Seal(teq::v1::Report& report,
                                                       const PageWriter& page) {
  const auto place = [this](const std::string& directory) {
    return (output_ / directory).string();
  };
  return SealAttempt(AttemptDirectory(), settled_, publisher_, "", place, report, page);
}

absl::Status DirectoryPublication::Publish(const std::string& manifest_sha256,
                                           const StepHook& hook) {
  const fs::path attempt = AttemptDirectory();
  const fs::path root = output_ / kManifestKey;
  const auto is_published = [&] {
    const absl::StatusOr<std::string> found = FileSha256(root);
    return found.ok() && *found == manifest_sha256;
  };
  if (!is_published()) {
    if (Exists(root)) return InUse(root.string(), "another result was published there first");
    absl::Status status = [&]() -> absl::Status {
      TEQ_ASSIGN_OR_RETURN(const auto files, ListedFiles(attempt / kManifestKey, manifest_sha256));
      TEQ_RETURN_IF_ERROR(CheckSizes(attempt, output_, files));
      std::set<std::string> entries;
      for (const auto& [path, bytes] : files) entries.insert(fs::path(path).begin()->string());
      for (const std::string& entry : entries) {
        Tell(hook, "publish_rename");
        TEQ_RETURN_IF_ERROR(MoveIntoPlace(attempt / entry, output_ / entry));
      }
      Tell(hook, "publish_manifest");
      return LinkManifest(attempt / kManifestKey, root, manifest_sha256);
    }();
    // Another publisher of the same content may have finished in between.
    if (!status.ok() && !is_published()) return status;
  }
  Tell(hook, "publish_cleanup");
  // What is left over does no harm: the result is published.
  RemoveTree(attempt).IgnoreError();
  return Sync(output_);
}

absl::Status DirectoryPublication::Abandon() {
  const fs::path attempt = AttemptDirectory();
  std::shared_ptr<const DirectoryLock> lock = std::exchange(lock_, nullptr);  // until it is gone
  if (!IsDirectory(attempt)) return absl::OkStatus();
  const std::optional<Owner> owner = ReadOwner(attempt);
  if (owner && owner->job_uid != publisher_.job_uid) return absl::OkStatus();
  if (!lock) {
    // Runs have no uid and share one name: what is locked or sealed may be another run's.
    absl::StatusOr<std::shared_ptr<const DirectoryLock>> taken = DirectoryLock::Take(attempt);
    if (!taken.ok()) return absl::OkStatus();
    lock = *std::move(taken);
    if (publisher_.job_uid.empty() && Exists(attempt / kManifestKey)) return absl::OkStatus();
  }
  if (!owner) {
    ::rmdir(attempt.c_str());
    return absl::OkStatus();
  }
  TEQ_RETURN_IF_ERROR(RemoveTree(attempt));
  if (owner->made_output && ::rmdir(output_.c_str()) == 0) return Sync(output_.parent_path());
  return Sync(output_);
}

}  // namespace

absl::StatusOr<Publication> BeginInDirectory(fs::path output, const Publisher& publisher,
                                             const std::vector<std::string>& format_directories) {
  auto attempt = std::make_shared<DirectoryPublication>(std::move(output), publisher);
  TEQ_RETURN_IF_ERROR(attempt->Begin(format_directories));
  return Publication(std::move(attempt));
}

Publication FindInDirectory(fs::path output, const Publisher& publisher) {
  return Publication(std::make_shared<DirectoryPublication>(std::move(output), publisher));
}

}  // namespace teq::objects
