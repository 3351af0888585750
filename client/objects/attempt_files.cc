#include "client/objects/attempt_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <regex>
#include <set>
#include <system_error>
#include <utility>

#include "client/objects/manifest.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/json.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kReport = "report.json";
constexpr std::string_view kPage = "report.html";

std::string TextField(const ordered_json& json, std::string_view key) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

struct StagedFile {
  std::uint64_t bytes = 0;
  std::string sha256;
};

// Empty where it is not a regular file.
std::string VersionOfFile(const fs::path& path) {
  struct stat info {};
  const bool is_file = ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
  return is_file ? VersionOf(info) : std::string();
}

// Whether an open directory still has this name.
bool HasName(int fd, const fs::path& directory) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(fd, &opened) == 0 && ::lstat(directory.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

absl::Status Changed(const fs::path& path, std::string_view what) {
  return Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT",
               fmt::format("{}: {} since it was written; another program does that, or the disk is "
                           "faulty",
                           path.string(), what));
}

// A file that was not touched since it was settled is not read again.
absl::StatusOr<std::string> DigestOf(const fs::path& path, const SettledFile* settled) {
  if (settled != nullptr && settled->version == VersionOfFile(path)) return settled->sha256;
  TEQ_ASSIGN_OR_RETURN(std::string digest, FileSha256(path));
  if (settled != nullptr && digest != settled->sha256) return Changed(path, "has changed");
  return digest;
}

// Syncs everything below `attempt` and digests what is not settled; by path relative to it, in name
// order.
absl::StatusOr<std::map<std::string, StagedFile>> SyncAndDigest(const fs::path& attempt,
                                                                const SettledFiles& settled) {
  std::map<std::string, StagedFile> files;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(attempt, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path& path = entry->path();
    const std::string relative = path.lexically_relative(attempt).generic_string();
    if (relative == kOwnerKey || relative == kManifestKey) continue;
    const std::optional<std::uint64_t> bytes = RegularFileSize(path);
    if (!bytes && !IsDirectory(path)) {
      return Error(absl::StatusCode::kFailedPrecondition, "UNEXPECTED_FILE",
                   fmt::format("{}: is neither a file nor a directory; only those are published",
                               path.string()));
    }
    TEQ_RETURN_IF_ERROR(Sync(path));
    if (!bytes) continue;
    const auto known = settled.find(relative);
    TEQ_ASSIGN_OR_RETURN(std::string digest,
                         DigestOf(path, known == settled.end() ? nullptr : &known->second));
    files[relative] = {.bytes = *bytes, .sha256 = std::move(digest)};
  }
  if (error) return WriteError(error.value(), attempt, 0);
  for (const auto& [path, file] : settled) {
    if (!files.contains(path)) return Changed(attempt / path, "has gone");
  }
  return files;
}

absl::StatusOr<teq::v1::Artifact> MakeArtifact(const std::string& directory, std::string place,
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
  artifact.set_path(std::move(place));
  artifact.set_bytes(static_cast<std::int64_t>(bytes));
  artifact.set_sha256(Sha256(listing));
  return artifact;
}

ordered_json ManifestJson(const Publisher& publisher, const std::string& prefix,
                          const teq::v1::Report& report,
                          const std::map<std::string, StagedFile>& files) {
  ordered_json listed = ordered_json::array();
  for (const auto& [path, file] : files) {
    listed.push_back({{"path", prefix + path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
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

}  // namespace

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

absl::Status InUse(const std::string& place, std::string_view what) {
  return Error(absl::StatusCode::kFailedPrecondition, "OUTPUT_IN_USE",
               fmt::format("{}: {}", place, what), {{"path", place}});
}

absl::Status Mismatch(std::string_view message) {
  return Error(absl::StatusCode::kDataLoss, "MANIFEST_MISMATCH", message);
}

absl::Status PublishedBefore(const std::string& place, std::string_view text) {
  const ordered_json json = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool ours = TextField(json, "schema").starts_with("teqd.manifest.");
  return InUse(place,
               ours ? fmt::format("{} has published there; choose another output.uri, or move "
                                  "that result away",
                                  JobOrRun(TextField(json, "job")))
                    : "a manifest that is not teqd's lies there; choose another output.uri");
}

std::string JobOrRun(const std::string& job) {
  return job.empty() ? std::string("a run without a server") : job;
}

absl::StatusOr<bool> MakeDirectories(const fs::path& path) {
  if (IsDirectory(path)) return false;
  if (path.has_relative_path()) TEQ_RETURN_IF_ERROR(MakeDirectories(path.parent_path()).status());
  if (::mkdir(path.c_str(), 0777) != 0) {
    if (errno == EEXIST || errno == ENOTDIR) {
      // A link to a directory is the operator's choice above the output; see ResolveUri.
      if (std::error_code error; fs::is_directory(path, error)) return false;
      return InUse(path.string(), "is not a directory; choose another output.uri");
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

absl::StatusOr<std::shared_ptr<const DirectoryLock>> DirectoryLock::Take(const fs::path& directory,
                                                                         IfHeld if_held) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return WriteError(errno, directory, 0);
  std::shared_ptr<DirectoryLock> lock(new DirectoryLock(fd));
  const int operation = if_held == IfHeld::kWait ? LOCK_EX : LOCK_EX | LOCK_NB;
  int result = ::flock(fd, operation);
  while (result != 0 && errno == EINTR) result = ::flock(fd, operation);
  const bool is_held = result != 0 && errno == EWOULDBLOCK;
  // Who held it may have removed the directory, and another may have its name.
  if (is_held || (result == 0 && !HasName(fd, directory))) {
    return InUse(directory.string(),
                 "another process writes there; wait for it or choose another output.uri");
  }
  lock->protects_ = result == 0;
  return lock;
}

DirectoryLock::~DirectoryLock() { ::close(fd_); }

std::string AttemptName(const Publisher& publisher) {
  return fmt::format("{}-{}", publisher.attempt, publisher.fence);
}

bool IsAttemptName(const std::string& name) {
  static const std::regex kAttemptName("[1-9][0-9]{0,9}-[1-9][0-9]{0,18}");
  return std::regex_match(name, kAttemptName);
}

std::optional<Owner> ParseOwner(std::string_view text) {
  const ordered_json json = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("fence") || !json["fence"].is_number_integer()) {
    return std::nullopt;
  }
  const auto made_output = json.find("made_output");
  return Owner{.job = TextField(json, "job"),
               .job_uid = TextField(json, "job_uid"),
               .fence = json["fence"].get<std::int64_t>(),
               .made_output = made_output != json.end() && made_output->is_boolean() &&
                              made_output->get<bool>(),
               .nonce = TextField(json, "nonce")};
}

std::string OwnerText(const Publisher& publisher, bool made_output, const std::string& nonce) {
  ordered_json json = {{"schema", "teqd.owner.v1"},    {"job", publisher.job},
                       {"job_uid", publisher.job_uid}, {"attempt", publisher.attempt},
                       {"fence", publisher.fence},     {"made_output", made_output}};
  if (!nonce.empty()) json["nonce"] = nonce;
  return json.dump(2) + "\n";
}

absl::Status NewerAttempt(const std::string& place, std::int64_t found, std::int64_t own) {
  return Error(absl::StatusCode::kAborted, "LEASE_LOST",
               fmt::format("{}: an attempt with fence {} is newer than this one with {}", place,
                           found, own));
}

void SettleFiles(const fs::path& attempt, const std::string& format_directory,
                 const std::map<std::string, std::string>& sha256, SettledFiles& settled) {
  for (const auto& [name, digest] : sha256) {
    settled[fmt::format("{}/{}", format_directory, name)] = {
        .sha256 = digest, .version = VersionOfFile(attempt / format_directory / name)};
  }
}

absl::StatusOr<std::string> SealAttempt(
    const fs::path& attempt, const SettledFiles& settled, const Publisher& publisher,
    const std::string& prefix,
    const std::function<std::string(const std::string& directory)>& place, teq::v1::Report& report,
    const PageWriter& page) {
  TEQ_ASSIGN_OR_RETURN(auto files, SyncAndDigest(attempt, settled));
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
                         MakeArtifact(directory, place(directory), files));
    teq::v1::Artifact& sealed = *report.add_artifacts();
    for (const teq::v1::Artifact& known : measured) {
      if (known.format() == artifact.format()) sealed = known;
    }
    sealed.MergeFrom(artifact);
  }
  // In the caller's order, where it has one.
  const auto rank = [&measured](const teq::v1::Artifact* artifact) {
    const auto is_same = [artifact](const auto& known) {
      return known.format() == artifact->format();
    };
    return std::find_if(measured.begin(), measured.end(), is_same) - measured.begin();
  };
  auto& artifacts = *report.mutable_artifacts();
  std::stable_sort(artifacts.pointer_begin(), artifacts.pointer_end(),
                   [&rank](const auto* a, const auto* b) { return rank(a) < rank(b); });
  std::map<std::string_view, std::string> texts;
  texts[kReport] = ToJson(report).dump(2) + "\n";
  if (page) texts[kPage] = page(report);
  for (const auto& [name, text] : texts) {
    TEQ_RETURN_IF_ERROR(WriteFileAtomically(attempt / name, text));
    files[std::string(name)] = {.bytes = text.size(), .sha256 = Sha256(text)};
  }
  const std::string manifest = ManifestJson(publisher, prefix, report, files).dump(2) + "\n";
  TEQ_RETURN_IF_ERROR(WriteFileAtomically(attempt / kManifestKey, manifest));
  return Sha256(manifest);
}

void Tell(const StepHook& hook, std::string_view step) {
  if (hook) hook(step);
}

}  // namespace teq::objects
