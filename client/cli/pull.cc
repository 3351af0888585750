#include "client/cli/pull.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <set>
#include <system_error>
#include <utility>

#include "client/cli/usage.h"
#include "client/objects/file.h"
#include "client/objects/parallel.h"
#include "client/objects/temporary_file.h"
#include "client/objects/verify.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cli {
namespace {

namespace fs = std::filesystem;
using objects::ManifestFile;
using objects::TransferProgress;

constexpr int kFilesAtOnce = 4;

absl::Status InUse(const fs::path& path, std::string_view what) {
  return Error(absl::StatusCode::kFailedPrecondition, "DIRECTORY_IN_USE",
               fmt::format("{}: {}", path.string(), what), {{"path", path.string()}});
}

fs::path Partial(fs::path directory) {
  directory += ".partial";
  return directory;
}

absl::Status MakeDirectories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? objects::WriteError(error.value(), path, 0) : absl::OkStatus();
}

absl::Status Rename(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  return error ? objects::WriteError(error.value(), to, 0) : absl::OkStatus();
}

bool HasManifest(const fs::path& directory, const std::string& text) {
  const auto found = objects::ReadFile(directory / objects::kManifestKey);
  return found.ok() && *found == text;
}

bool IsAsListed(const fs::path& path, const ManifestFile& file) {
  std::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(path, error)) ||
      fs::file_size(path, error) != file.bytes) {
    return false;
  }
  const auto digest = objects::FileSha256(path);
  return digest.ok() && *digest == file.sha256;
}

// The bytes of all files, as each goes on by itself.
class Progress {
 public:
  Progress(const TransferProgress& tell, const std::vector<ManifestFile>& files)
      : tell_(tell), done_(files.size()) {
    for (const ManifestFile& file : files) total_ += file.bytes;
  }

  // False: stop.
  bool Set(std::size_t file, std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    sum_ += bytes - std::exchange(done_[file], bytes);
    return !tell_ || tell_(sum_, total_);
  }

 private:
  const TransferProgress& tell_;
  std::uint64_t total_ = 0;
  std::mutex mutex_;
  std::vector<std::uint64_t> done_;
  std::uint64_t sum_ = 0;
};

class Puller {
 public:
  Puller(const PullPlan& plan, fs::path directory, const FetchFile& fetch,
         const TransferProgress& progress)
      : plan_(plan),
        fetch_(fetch),
        progress_(progress, plan.files),
        directory_(std::move(directory)),
        partial_(Partial(directory_)) {}

  absl::StatusOr<PullResult> Run() {
    TEQ_RETURN_IF_ERROR(LookAtDirectory());
    TEQ_RETURN_IF_ERROR(OpenPartial());
    TEQ_RETURN_IF_ERROR(objects::ForEachInParallel(plan_.files.size(), kFilesAtOnce,
                                                   [this](std::size_t i) { return Bring(i); }));
    TEQ_RETURN_IF_ERROR(RemoveUnlisted());
    TEQ_RETURN_IF_ERROR(is_new_ ? Rename(partial_, directory_) : Complete());
    TEQ_RETURN_IF_ERROR(objects::Sync(directory_.parent_path()));
    return result_;
  }

 private:
  std::string LocalName(const ManifestFile& file) const {
    return file.path.substr(plan_.prefix.size());
  }

  absl::Status LookAtDirectory() {
    std::error_code error;
    const fs::file_status status = fs::status(directory_, error);
    if (!fs::exists(status)) return absl::OkStatus();
    if (!fs::is_directory(status)) {
      return InUse(directory_, "is not a directory; name another");
    }
    if (fs::is_empty(directory_, error)) return TakePlaceOfEmpty();
    if (!HasManifest(directory_, plan_.manifest_text)) {
      return InUse(
          directory_,
          "holds something else than this output; name a new directory, or move that away");
    }
    is_new_ = false;
    return absl::OkStatus();
  }

  // The pulled directory gets its name at the end, which neither a mount point nor a link gives up.
  absl::Status TakePlaceOfEmpty() const {
    if (::rmdir(directory_.c_str()) == 0) return absl::OkStatus();
    return InUse(directory_, fmt::format("is empty, but cannot be replaced ({}); is it a mount "
                                         "point, or a link? Name a new directory below it",
                                         std::generic_category().message(errno)));
  }

  // What an earlier pull of the same output has left is kept.
  absl::Status OpenPartial() {
    std::error_code error;
    if (fs::exists(fs::symlink_status(partial_, error)) &&
        !HasManifest(partial_, plan_.manifest_text)) {
      const auto text = objects::ReadFile(partial_ / objects::kManifestKey);
      if (!text.ok() || !objects::ParseManifest(*text, "").ok()) {
        return InUse(partial_,
                     "is needed while files arrive, and holds something else; move it away");
      }
      TEQ_RETURN_IF_ERROR(Lock());
      fs::remove_all(partial_, error);
      if (error) return objects::WriteError(error.value(), partial_, 0);
    }
    TEQ_RETURN_IF_ERROR(MakeDirectories(partial_));
    TEQ_RETURN_IF_ERROR(Lock());
    return objects::WriteFileAtomically(partial_ / objects::kManifestKey, plan_.manifest_text);
  }

  absl::Status Lock() {
    lock_ = objects::Descriptor(
        ::open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (lock_.get() < 0) return objects::WriteError(errno, partial_, 0);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return InUse(partial_, "another pull is at work there; wait for it");
    }
    return absl::OkStatus();
  }

  absl::Status Bring(std::size_t number) {
    const ManifestFile& file = plan_.files[number];
    const std::string name = LocalName(file);
    if (IsAsListed(partial_ / name, file) || (!is_new_ && IsAsListed(directory_ / name, file))) {
      return Done(number, /*fetched=*/false);
    }
    const fs::path to = partial_ / name;
    TEQ_RETURN_IF_ERROR(MakeDirectories(to.parent_path()));
    TEQ_RETURN_IF_ERROR(fetch_(file, to, [this, number](std::uint64_t done, std::uint64_t) {
      return progress_.Set(number, done);
    }));
    TEQ_ASSIGN_OR_RETURN(const std::string found, objects::FileSha256(to));
    if (found != file.sha256) {
      std::error_code ignored;
      fs::remove(to, ignored);
      return Error(absl::StatusCode::kDataLoss, "CHECKSUM_MISMATCH",
                   fmt::format("{}: {}; nothing was put into {}", file.path,
                               objects::WrongDigest(file.sha256, found), directory_.string()),
                   {{"file", file.path}, {"expected", file.sha256}, {"found", found}});
    }
    return Done(number, /*fetched=*/true);
  }

  absl::Status Done(std::size_t number, bool fetched) {
    const std::uint64_t bytes = plan_.files[number].bytes;
    {
      const std::lock_guard lock(mutex_);
      ++(fetched ? result_.fetched : result_.kept);
      if (fetched) result_.fetched_bytes += bytes;
    }
    if (progress_.Set(number, bytes)) return absl::OkStatus();
    return Error(absl::StatusCode::kCancelled, "CANCELLED", "stopped");
  }

  // What an interrupted pull of other formats has left, and temporary files of a killed one.
  absl::Status RemoveUnlisted() {
    std::set<std::string> listed = {objects::kManifestKey};
    for (const ManifestFile& file : plan_.files) listed.insert(LocalName(file));
    std::error_code error;
    std::vector<fs::path> unlisted;
    std::vector<fs::path> directories;
    fs::recursive_directory_iterator entry(partial_, error);
    for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
      const fs::path& path = entry->path();
      std::error_code unseen;
      if (fs::is_directory(fs::symlink_status(path, unseen))) {
        directories.push_back(path);
      } else if (!listed.contains(path.lexically_relative(partial_).generic_string())) {
        unlisted.push_back(path);
      }
    }
    if (error) return objects::WriteError(error.value(), partial_, 0);
    for (const fs::path& path : unlisted) {
      if (!fs::remove(path, error)) return objects::WriteError(error.value(), path, 0);
    }
    // Inner ones first; those that are not empty stay.
    std::ranges::reverse(directories);
    for (const fs::path& path : directories) fs::remove(path, error);
    return absl::OkStatus();
  }

  // Moves what the directory lacks: whole new formats at once, else file by file.
  absl::Status Complete() {
    std::set<std::string> moved;
    std::error_code error;
    for (const ManifestFile& file : plan_.files) {
      const std::string name = LocalName(file);
      const std::string top = fs::path(name).begin()->string();
      if (moved.contains(top) || !fs::exists(partial_ / name, error)) continue;
      if (!fs::exists(fs::symlink_status(directory_ / top, error))) {
        TEQ_RETURN_IF_ERROR(Rename(partial_ / top, directory_ / top));
        moved.insert(top);
        continue;
      }
      TEQ_RETURN_IF_ERROR(MakeDirectories((directory_ / name).parent_path()));
      TEQ_RETURN_IF_ERROR(Rename(partial_ / name, directory_ / name));
    }
    TEQ_RETURN_IF_ERROR(objects::Sync(directory_));
    fs::remove_all(partial_, error);
    return error ? objects::WriteError(error.value(), partial_, 0) : absl::OkStatus();
  }

  const PullPlan& plan_;
  const FetchFile& fetch_;
  Progress progress_;
  const fs::path directory_;
  const fs::path partial_;
  bool is_new_ = true;
  objects::Descriptor lock_;
  std::mutex mutex_;
  PullResult result_;
};

}  // namespace

absl::StatusOr<fs::path> AbsoluteDirectory(const fs::path& directory) {
  if (directory.empty()) return Usage("DIRECTORY is empty; name a new directory");
  std::error_code error;
  const fs::path whole = fs::absolute(directory, error).lexically_normal();
  if (error) {
    return Usage(fmt::format(
        "DIRECTORY \"{}\" is relative, and the current directory cannot be found ({}); name an "
        "absolute path",
        directory.string(), error.message()));
  }
  return whole.has_filename() ? whole : whole.parent_path();
}

fs::path PartialDirectory(const fs::path& directory) {
  return Partial(AbsoluteDirectory(directory).value_or(directory));
}

absl::StatusOr<PullResult> PullFiles(const PullPlan& plan, const FetchFile& fetch,
                                     const TransferProgress& progress) {
  TEQ_ASSIGN_OR_RETURN(fs::path directory, AbsoluteDirectory(plan.directory));
  return Puller(plan, std::move(directory), fetch, progress).Run();
}

}  // namespace teq::cli
