#include "client/objects/publication.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/json.h"

namespace teq::objects {

struct Publication::Lock {
  explicit Lock(int descriptor) : fd(descriptor) {}
  ~Lock() { ::close(fd); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  int fd;
};

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kManifest = "manifest.json";
constexpr std::string_view kOwner = "owner.json";
constexpr std::string_view kReport = "report.json";
constexpr std::string_view kPage = "report.html";

// Whether anything has this name, a dangling symbolic link too.
bool Exists(const fs::path& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0;
}

bool IsDirectory(const fs::path& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::optional<std::uint64_t> RegularFileSize(const fs::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return static_cast<std::uint64_t>(info.st_size);
}

absl::Status InUse(const fs::path& path, std::string_view what) {
  return Error(absl::StatusCode::kFailedPrecondition, "OUTPUT_IN_USE",
               fmt::format("{}: {}", path.string(), what), {{"path", path.string()}});
}

std::string TextField(const ordered_json& json, std::string_view key) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string JobOrRun(const std::string& job) {
  return job.empty() ? std::string("a run without a server") : job;
}

// Makes `path` and what is missing above it; whether `path` itself was made.
absl::StatusOr<bool> MakeDirectories(const fs::path& path) {
  if (IsDirectory(path)) return false;
  if (path.has_relative_path()) TEQ_RETURN_IF_ERROR(MakeDirectories(path.parent_path()).status());
  if (::mkdir(path.c_str(), 0777) != 0) {
    if (errno == EEXIST || errno == ENOTDIR) {
      // A link to a directory is the operator's choice above the output; see ResolveUri.
      if (std::error_code error; fs::is_directory(path, error)) return false;
      return InUse(path, "is not a directory; choose another output.uri");
    }
    return WriteError(errno, path, 0);
  }
  TEQ_RETURN_IF_ERROR(Sync(path.parent_path()));
  return true;
}

absl::Status RemoveTree(const fs::path& path) {
  // A dead attempt's engine may still write there for a moment.
  constexpr int kTries = 5;
  std::error_code error;
  for (int i = 0; i < kTries; ++i) {
    fs::remove_all(path, error);
    if (error.value() != ENOTEMPTY) break;
  }
  return error ? WriteError(error.value(), path, 0) : absl::OkStatus();
}

// Takes the lock of an attempt's directory; null where somebody else holds it. A file system
// without locks gives one that protects nothing.
absl::StatusOr<int> OpenLocked(const fs::path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return WriteError(errno, directory, 0);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(fd);
    return InUse(directory,
                 "another process writes there; wait for it or choose another output.uri");
  }
  return fd;
}

// What owner.json says.
struct Owner {
  std::string job;
  std::string job_uid;
  std::int64_t fence = 0;
  bool made_output = false;
};

std::optional<Owner> ReadOwner(const fs::path& attempt) {
  const absl::StatusOr<std::string> text = ReadFile(attempt / kOwner);
  if (!text.ok()) return std::nullopt;
  const ordered_json json = ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("fence") || !json["fence"].is_number_integer()) {
    return std::nullopt;
  }
  return Owner{.job = TextField(json, "job"),
               .job_uid = TextField(json, "job_uid"),
               .fence = json["fence"].get<std::int64_t>(),
               .made_output = json.value("made_output", false)};
}

absl::Status WriteOwner(const fs::path& attempt, const Publisher& publisher, bool made_output) {
  const ordered_json json = {{"schema", "teqd.owner.v1"},    {"job", publisher.job},
                             {"job_uid", publisher.job_uid}, {"attempt", publisher.attempt},
                             {"fence", publisher.fence},     {"made_output", made_output}};
  return WriteFileAtomically(attempt / kOwner, json.dump(2) + "\n");
}

absl::Status CheckFinalPlaces(const fs::path& output, const std::vector<std::string>& directories) {
  const fs::path root = output / kManifest;
  if (Exists(root)) {
    const absl::StatusOr<std::string> text = ReadFile(root);
    const ordered_json json =
        ordered_json::parse(text.ok() ? *text : "", nullptr, /*allow_exceptions=*/false);
    const bool ours = TextField(json, "schema").starts_with("teqd.manifest.");
    return InUse(root,
                 ours ? fmt::format("{} has published there; choose another output.uri, or move "
                                    "that result away",
                                    JobOrRun(TextField(json, "job")))
                      : "a manifest that is not teqd's lies there; choose another output.uri");
  }
  std::vector<std::string> names = directories;
  names.emplace_back(kReport);
  names.emplace_back(kPage);
  for (const std::string& name : names) {
    if (Exists(output / name)) {
      return InUse(output / name,
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
  if (!owner) {
    if (!is_own_name || ::rmdir(attempt.c_str()) == 0) return absl::OkStatus();
    return InUse(attempt, "is not an attempt of teqd's; remove it or choose another output.uri");
  }
  const bool same_job = !publisher.job_uid.empty() && owner->job_uid == publisher.job_uid;
  if (same_job && owner->fence > publisher.fence) {
    return Error(absl::StatusCode::kAborted, "LEASE_LOST",
                 fmt::format("{}: an attempt with fence {} is newer than this one with {}",
                             attempt.string(), owner->fence, publisher.fence));
  }
  if (!same_job) {
    const absl::StatusOr<int> lock = OpenLocked(attempt);
    if (!lock.ok()) return lock.status();
    ::close(*lock);
    if (Exists(attempt / kManifest)) {
      return InUse(attempt,
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
  static const std::regex kAttemptName("[1-9][0-9]{0,9}-[1-9][0-9]{0,18}");
  std::error_code error;
  std::vector<fs::path> attempts;
  for (fs::directory_iterator entry(output, error), end; !error && entry != end;
       entry.increment(error)) {
    if (std::regex_match(entry->path().filename().string(), kAttemptName)) {
      attempts.push_back(entry->path());
    }
  }
  if (error) return WriteError(error.value(), output, 0);
  for (const fs::path& attempt : attempts) {
    TEQ_RETURN_IF_ERROR(ClearAttempt(attempt, publisher, attempt == own_attempt, made_output));
  }
  return absl::OkStatus();
}

struct StagedFile {
  std::uint64_t bytes = 0;
  std::string sha256;
};

// Syncs and digests everything below `attempt`; by path relative to it, in name order.
absl::StatusOr<std::map<std::string, StagedFile>> SyncAndDigest(const fs::path& attempt) {
  std::map<std::string, StagedFile> files;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(attempt, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path& path = entry->path();
    const std::string relative = path.lexically_relative(attempt).generic_string();
    if (relative == kOwner || relative == kManifest) continue;
    const std::optional<std::uint64_t> bytes = RegularFileSize(path);
    if (!bytes && !IsDirectory(path)) {
      return Error(absl::StatusCode::kFailedPrecondition, "UNEXPECTED_FILE",
                   fmt::format("{}: is neither a file nor a directory; only those are published",
                               path.string()));
    }
    TEQ_RETURN_IF_ERROR(Sync(path));
    if (!bytes) continue;
    TEQ_ASSIGN_OR_RETURN(std::string digest, FileSha256(path));
    files[relative] = {.bytes = *bytes, .sha256 = std::move(digest)};
  }
  if (error) return WriteError(error.value(), attempt, 0);
  return files;
}

absl::StatusOr<teq::v1::Artifact> MakeArtifact(const std::string& directory, const fs::path& final,
                                               const std::map<std::string, StagedFile>& files) {
  teq::v1::Artifact artifact;
  std::string listing;
  std::uint64_t bytes = 0;
  for (const auto& [path, file] : files) {
    if (!path.starts_with(directory + "/")) continue;
    listing += fmt::format("{}  {}\n", file.sha256, path.substr(directory.size() + 1));
    bytes += file.bytes;
  }
  if (listing.empty()) {
    return Error(absl::StatusCode::kFailedPrecondition, "UNEXPECTED_FILE",
                 fmt::format("{}: the directory of a format is empty", directory));
  }
  std::string format = directory;
  std::ranges::transform(format, format.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  artifact.set_format(format);
  artifact.set_path(final.string());
  artifact.set_bytes(static_cast<std::int64_t>(bytes));
  artifact.set_sha256(Sha256(listing));
  return artifact;
}

ordered_json ManifestJson(const Publisher& publisher, const teq::v1::Report& report,
                          const std::map<std::string, StagedFile>& files) {
  ordered_json listed = ordered_json::array();
  for (const auto& [path, file] : files) {
    listed.push_back({{"path", path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  const ordered_json report_json = ToJson(report);
  return {{"schema", "teqd.manifest.v1"},
          {"job", publisher.job},
          {"job_uid", publisher.job_uid},
          {"spec_digest", publisher.spec_digest},
          {"attempt", publisher.attempt},
          {"fence", publisher.fence},
          {"artifacts", report_json.value("artifacts", ordered_json::array())},
          {"files", std::move(listed)},
          {"report", report_json}};
}

absl::Status Mismatch(std::string_view message) {
  return Error(absl::StatusCode::kDataLoss, "MANIFEST_MISMATCH", message);
}

// The files that a manifest lists, by path relative to the output, and their sizes.
absl::StatusOr<std::map<std::string, std::uint64_t>> ListedFiles(const fs::path& manifest,
                                                                 const std::string& sha256) {
  absl::StatusOr<std::string> text = ReadFile(manifest);
  if (!text.ok()) {
    return Mismatch(
        fmt::format("{}: the committed manifest {} is gone", manifest.string(), sha256));
  }
  if (const std::string found = Sha256(*text); found != sha256) {
    return Mismatch(fmt::format("{}: its sha256 is {}, the committed one is {}", manifest.string(),
                                found, sha256));
  }
  const ordered_json json = ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false);
  std::map<std::string, std::uint64_t> files;
  try {
    for (const ordered_json& file : json.at("files")) {
      files[file.at("path").get<std::string>()] = file.at("bytes").get<std::uint64_t>();
    }
  } catch (const ordered_json::exception& error) {
    return Mismatch(fmt::format("{}: {}", manifest.string(), error.what()));
  }
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
    return InUse(to, "came there during the run; remove it, then retry the job");
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
    if (*found != sha256) return InUse(to, "another result was published there first");
    error = 0;
  }
  if (error != 0) return WriteError(error, to, 0);
  return Sync(to.parent_path());
}

void Tell(const StepHook& hook, std::string_view step) {
  if (hook) hook(step);
}

}  // namespace

absl::StatusOr<Publication> Publication::Begin(const std::string& output_uri,
                                               const UriPolicy& policy, const Publisher& publisher,
                                               const std::vector<std::string>& format_directories) {
  TEQ_ASSIGN_OR_RETURN(Publication publication, Find(output_uri, policy, publisher));
  const fs::path& output = publication.output_;
  const fs::path attempt = publication.AttemptDirectory();
  TEQ_ASSIGN_OR_RETURN(bool made_output, MakeDirectories(output));
  TEQ_RETURN_IF_ERROR(CheckFinalPlaces(output, format_directories));
  TEQ_RETURN_IF_ERROR(ClearAttempts(output, publisher, attempt, made_output));
  if (::mkdir(attempt.c_str(), 0777) != 0) {
    const int error = errno;
    if (error == EEXIST) return InUse(attempt, "another run began there at the same time");
    if (made_output) ::rmdir(output.c_str());
    return WriteError(error, attempt, 0);
  }
  absl::Status status = [&]() -> absl::Status {
    TEQ_ASSIGN_OR_RETURN(const int lock, OpenLocked(attempt));
    publication.lock_ = std::make_shared<const Lock>(lock);
    TEQ_RETURN_IF_ERROR(WriteOwner(attempt, publisher, made_output));
    for (const std::string& directory : format_directories) {
      const fs::path staging = publication.StagingDirectory(directory);
      if (::mkdir(staging.c_str(), 0777) != 0) return WriteError(errno, staging, 0);
    }
    TEQ_RETURN_IF_ERROR(Sync(attempt));
    return Sync(output);
  }();
  if (!status.ok()) {
    // The first error is the one to tell.
    RemoveTree(attempt).IgnoreError();
    if (made_output) ::rmdir(output.c_str());
    return status;
  }
  return publication;
}

absl::StatusOr<Publication> Publication::Find(const std::string& output_uri,
                                              const UriPolicy& policy, const Publisher& publisher) {
  TEQ_ASSIGN_OR_RETURN(fs::path output, ResolveUri(output_uri, policy));
  return Publication(std::move(output), publisher);
}

fs::path Publication::AttemptDirectory() const {
  return output_ / fmt::format("{}-{}", publisher_.attempt, publisher_.fence);
}

fs::path Publication::StagingDirectory(const std::string& format_directory) const {
  return AttemptDirectory() / format_directory;
}

fs::path Publication::FinalDirectory(const std::string& format_directory) const {
  return output_ / format_directory;
}

absl::StatusOr<std::string> Publication::Seal(teq::v1::Report& report, const PageWriter& page) {
  const fs::path attempt = AttemptDirectory();
  TEQ_ASSIGN_OR_RETURN(auto files, SyncAndDigest(attempt));
  std::error_code error;
  std::set<std::string> directories;
  for (fs::directory_iterator entry(attempt, error), end; !error && entry != end;
       entry.increment(error)) {
    if (IsDirectory(entry->path())) directories.insert(entry->path().filename().string());
  }
  if (error) return WriteError(error.value(), attempt, 0);
  // What was measured of a format is kept.
  const auto measured = report.artifacts();
  report.clear_artifacts();
  for (const std::string& directory : directories) {
    TEQ_ASSIGN_OR_RETURN(const teq::v1::Artifact artifact,
                         MakeArtifact(directory, FinalDirectory(directory), files));
    teq::v1::Artifact& sealed = *report.add_artifacts();
    for (const teq::v1::Artifact& known : measured) {
      if (known.format() == artifact.format()) sealed = known;
    }
    sealed.MergeFrom(artifact);
  }
  std::map<std::string_view, std::string> texts;
  texts[kReport] = ToJson(report).dump(2) + "\n";
  if (page) texts[kPage] = page(report);
  for (const auto& [name, text] : texts) {
    TEQ_RETURN_IF_ERROR(WriteFileAtomically(attempt / name, text));
    files[std::string(name)] = {.bytes = text.size(), .sha256 = Sha256(text)};
  }
  const std::string manifest = ManifestJson(publisher_, report, files).dump(2) + "\n";
  TEQ_RETURN_IF_ERROR(WriteFileAtomically(attempt / kManifest, manifest));
  return Sha256(manifest);
}

absl::Status Publication::Publish(const std::string& manifest_sha256, const StepHook& hook) {
  const fs::path attempt = AttemptDirectory();
  const fs::path root = output_ / kManifest;
  const auto is_published = [&] {
    const absl::StatusOr<std::string> found = FileSha256(root);
    return found.ok() && *found == manifest_sha256;
  };
  if (!is_published()) {
    if (Exists(root)) return InUse(root, "another result was published there first");
    absl::Status status = [&]() -> absl::Status {
      TEQ_ASSIGN_OR_RETURN(const auto files, ListedFiles(attempt / kManifest, manifest_sha256));
      TEQ_RETURN_IF_ERROR(CheckSizes(attempt, output_, files));
      std::set<std::string> entries;
      for (const auto& [path, bytes] : files) entries.insert(fs::path(path).begin()->string());
      for (const std::string& entry : entries) {
        Tell(hook, "publish_rename");
        TEQ_RETURN_IF_ERROR(MoveIntoPlace(attempt / entry, output_ / entry));
      }
      Tell(hook, "publish_manifest");
      return LinkManifest(attempt / kManifest, root, manifest_sha256);
    }();
    // Another publisher of the same content may have finished in between.
    if (!status.ok() && !is_published()) return status;
  }
  Tell(hook, "publish_cleanup");
  // What is left over does no harm: the result is published.
  RemoveTree(attempt).IgnoreError();
  return Sync(output_);
}

absl::Status Publication::Abandon() {
  const fs::path attempt = AttemptDirectory();
  const bool is_own = lock_ != nullptr;
  lock_.reset();
  if (!IsDirectory(attempt)) return absl::OkStatus();
  const std::optional<Owner> owner = ReadOwner(attempt);
  if (!owner) {
    ::rmdir(attempt.c_str());
    return absl::OkStatus();
  }
  if (owner->job_uid != publisher_.job_uid) return absl::OkStatus();
  if (!is_own) {
    // Runs have no uid and share one name: what is locked or sealed may be another run's.
    const absl::StatusOr<int> lock = OpenLocked(attempt);
    if (!lock.ok()) return absl::OkStatus();
    ::close(*lock);
    if (publisher_.job_uid.empty() && Exists(attempt / kManifest)) return absl::OkStatus();
  }
  TEQ_RETURN_IF_ERROR(RemoveTree(attempt));
  if (owner->made_output && ::rmdir(output_.c_str()) == 0) return Sync(output_.parent_path());
  return Sync(output_);
}

}  // namespace teq::objects
