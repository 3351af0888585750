#include "client/objects/local_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "client/objects/digest.h"
#include "client/objects/file.h"
#include "client/objects/object_key.h"
#include "client/objects/temporary_file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunk = std::size_t{1} << 20;

std::string Words(int error_number) { return std::generic_category().message(error_number); }

absl::Status ReadError(int error_number, const fs::path& path) {
  if (error_number == ENOENT || error_number == ENOTDIR) {
    return Error(absl::StatusCode::kNotFound, "FILE_NOT_FOUND",
                 fmt::format("{}: there is no such file", path.string()));
  }
  if (error_number == ELOOP) {
    return Error(absl::StatusCode::kFailedPrecondition, "SYMBOLIC_LINK",
                 fmt::format("{}: passes a symbolic link, which is not followed here; put the file "
                             "itself there",
                             path.string()));
  }
  return Error(absl::StatusCode::kInternal, "READ_FAILED",
               fmt::format("{}: cannot be read: {}", path.string(), Words(error_number)));
}

absl::Status PlaceError(int error_number, const fs::path& path) {
  return error_number == ELOOP ? ReadError(error_number, path) : WriteError(error_number, path, 0);
}

// O_NOFOLLOW with O_DIRECTORY says ENOTDIR of a link; a link has to be told from a file.
int OpenDirectoryAt(int parent, const std::string& name) {
  const int fd = ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0 || errno != ENOTDIR) return fd;
  struct stat info {};
  const bool is_link =
      ::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
  errno = is_link ? ELOOP : ENOTDIR;
  return -1;
}

absl::Status Changed(const fs::path& path) {
  return Error(absl::StatusCode::kFailedPrecondition, "OBJECT_CHANGED",
               fmt::format("{}: is another file by now; start again with it", path.string()));
}

absl::Status Stopped(const fs::path& path) {
  return Error(absl::StatusCode::kCancelled, "CANCELLED",
               fmt::format("{}: the transfer was stopped", path.string()));
}

struct OpenedFile {
  Descriptor file;
  ObjectInfo info;
};

// Up to buffer.size() bytes from `offset`: how many there were, or the error.
absl::StatusOr<std::size_t> ReadSome(int fd, std::uint64_t offset, std::string& buffer,
                                     std::size_t wanted, const fs::path& path) {
  std::size_t done = 0;
  while (done < wanted) {
    const ssize_t count =
        ::pread(fd, buffer.data() + done, wanted - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ReadError(errno, path);
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  return done;
}

class LocalStore : public ObjectStore {
 public:
  explicit LocalStore(fs::path root) : root_(std::move(root)) {}

  [[nodiscard]] absl::StatusOr<ObjectInfo> Head(const std::string& key) const override {
    TEQ_ASSIGN_OR_RETURN(const OpenedFile opened, Open(key));
    return opened.info;
  }

  [[nodiscard]] absl::StatusOr<std::string> Read(const std::string& key, std::uint64_t offset,
                                                 std::uint64_t length,
                                                 const std::string& etag) const override {
    TEQ_ASSIGN_OR_RETURN(const OpenedFile opened, Open(key));
    if (!etag.empty() && opened.info.etag != etag) return Changed(root_ / key);
    if (offset > opened.info.bytes || length > opened.info.bytes - offset) {
      return Error(absl::StatusCode::kOutOfRange, "RANGE_BEYOND_END",
                   fmt::format("{}: has {} bytes; {} from byte {} are more than that",
                               (root_ / key).string(), opened.info.bytes, length, offset));
    }
    std::string content(length, '\0');
    TEQ_ASSIGN_OR_RETURN(const std::size_t count,
                         ReadSome(opened.file.get(), offset, content, content.size(), root_ / key));
    if (count != content.size()) return Changed(root_ / key);
    return content;
  }

  [[nodiscard]] absl::StatusOr<std::vector<ObjectInfo>> List(
      const std::string& prefix) const override {
    std::vector<ObjectInfo> found;
    TEQ_RETURN_IF_ERROR(
        Walk(prefix,
             [&](int directory, const std::string& name, const std::string& key) -> absl::Status {
               struct stat info {};
               if (TemporaryFile::IsTemporaryName(name) ||
                   ::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 ||
                   !S_ISREG(info.st_mode)) {
                 return absl::OkStatus();  // a temporary file, gone by now, or none
               }
               found.push_back({key, static_cast<std::uint64_t>(info.st_size), VersionOf(info)});
               return absl::OkStatus();
             }));
    std::ranges::sort(found, {}, &ObjectInfo::key);
    return found;
  }

  [[nodiscard]] absl::Status Write(const std::string& key, std::string_view content,
                                   IfExists if_exists) override {
    TEQ_ASSIGN_OR_RETURN(TemporaryFile file, Create(key));
    TEQ_RETURN_IF_ERROR(file.WriteAt(0, content));
    return file.Commit(if_exists);
  }

  [[nodiscard]] absl::Status Upload(const std::string& key, const fs::path& source,
                                    const std::string& sha256,
                                    const TransferProgress& progress) override {
    const Descriptor input(::open(source.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (input.get() < 0 || ::fstat(input.get(), &info) != 0) return ReadError(errno, source);
    TEQ_ASSIGN_OR_RETURN(TemporaryFile file, Create(key));
    TEQ_ASSIGN_OR_RETURN(
        const std::string digest,
        Copy(input.get(), source, static_cast<std::uint64_t>(info.st_size), file, progress));
    if (digest != sha256) {
      return Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT",
                   fmt::format("{}: the bytes have sha256 {} and not {}, as they should; the file "
                               "changed after it was summed, or its disk is faulty",
                               source.string(), digest, sha256));
    }
    return file.Commit(IfExists::kReplace);
  }

  [[nodiscard]] absl::Status Download(const ObjectInfo& object, const fs::path& target,
                                      const TransferProgress& progress) const override {
    TEQ_ASSIGN_OR_RETURN(const OpenedFile opened, Open(object.key));
    if ((!object.etag.empty() && opened.info.etag != object.etag) ||
        opened.info.bytes != object.bytes) {
      return Changed(root_ / object.key);
    }
    TEQ_ASSIGN_OR_RETURN(TemporaryFile file, TemporaryFile::Beside(target));
    TEQ_RETURN_IF_ERROR(
        Copy(opened.file.get(), root_ / object.key, object.bytes, file, progress).status());
    return file.Commit(IfExists::kReplace);
  }

  [[nodiscard]] absl::Status Remove(const std::string& key) override {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    const absl::StatusOr<Descriptor> directory = Parent(key, Missing::kFail);
    if (absl::IsNotFound(directory.status())) return absl::OkStatus();
    if (!directory.ok()) return directory.status();
    const std::string name = fs::path(key).filename();
    if (::unlinkat(directory->get(), name.c_str(), 0) != 0) {
      return errno == ENOENT ? absl::OkStatus() : WriteError(errno, root_ / key, 0);
    }
    return ::fsync(directory->get()) == 0 ? absl::OkStatus() : WriteError(errno, root_ / key, 0);
  }

  // What a process that died left under a temporary name. Living ones hold a lock.
  [[nodiscard]] absl::Status AbortUploads(const std::string& prefix) override {
    return Walk(
        prefix,
        [this](int directory, const std::string& name, const std::string& key) -> absl::Status {
          if (!TemporaryFile::IsTemporaryName(name)) return absl::OkStatus();
          const Descriptor file(
              ::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
          struct stat info {};
          if (file.get() < 0 || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
              ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
            return absl::OkStatus();
          }
          if (::unlinkat(directory, name.c_str(), 0) == 0 || errno == ENOENT)
            return absl::OkStatus();
          return WriteError(errno, root_ / key, 0);
        });
  }

  [[nodiscard]] absl::StatusOr<SignedUrl> PresignedUrl(const std::string& key,
                                                       absl::Duration /*ttl*/) const override {
    return Error(
        absl::StatusCode::kFailedPrecondition, "NOT_PRESIGNABLE",
        fmt::format("{} lies in a directory, which no URL reads; read it there", Uri(key)));
  }

  [[nodiscard]] std::string Uri(const std::string& key) const override {
    return FileUri(root_ / key);
  }

 private:
  enum class Missing { kFail, kMake };

  // The directory that holds `key`, each step without following links.
  [[nodiscard]] absl::StatusOr<Descriptor> Parent(const std::string& key, Missing missing) const {
    std::error_code error;
    if (missing == Missing::kMake) fs::create_directories(root_, error);
    if (error) return WriteError(error.value(), root_, 0);
    Descriptor directory(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.get() < 0) return ReadError(errno, root_);
    fs::path walked = root_;
    for (const fs::path& part : fs::path(key).parent_path()) {
      walked /= part;
      if (missing == Missing::kMake && ::mkdirat(directory.get(), part.c_str(), 0777) == 0) {
        if (::fsync(directory.get()) != 0) return WriteError(errno, walked, 0);
      } else if (missing == Missing::kMake && errno != EEXIST) {
        return WriteError(errno, walked, 0);
      }
      Descriptor next(OpenDirectoryAt(directory.get(), part));
      if (next.get() < 0) {
        return missing == Missing::kMake ? PlaceError(errno, walked) : ReadError(errno, walked);
      }
      directory = std::move(next);
    }
    return directory;
  }

  [[nodiscard]] absl::StatusOr<TemporaryFile> Create(const std::string& key) const {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    TEQ_ASSIGN_OR_RETURN(const Descriptor directory, Parent(key, Missing::kMake));
    return TemporaryFile::In(directory.get(), fs::path(key).filename(), root_ / key);
  }

  [[nodiscard]] absl::StatusOr<OpenedFile> Open(const std::string& key) const {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    TEQ_ASSIGN_OR_RETURN(const Descriptor directory, Parent(key, Missing::kFail));
    // Not blocking, so that a pipe of this name stops nobody.
    OpenedFile opened{.file = Descriptor(::openat(directory.get(), fs::path(key).filename().c_str(),
                                                  O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC))};
    struct stat info {};
    if (opened.file.get() < 0 || ::fstat(opened.file.get(), &info) != 0) {
      return ReadError(errno, root_ / key);
    }
    if (!S_ISREG(info.st_mode)) return ReadError(ENOENT, root_ / key);
    opened.info = {key, static_cast<std::uint64_t>(info.st_size), VersionOf(info)};
    return opened;
  }

  // `bytes` bytes from an open file; their sha256.
  static absl::StatusOr<std::string> Copy(int from, const fs::path& source, std::uint64_t bytes,
                                          const TemporaryFile& to,
                                          const TransferProgress& progress) {
    Sha256Digest digest;
    std::string buffer(kChunk, '\0');
    for (std::uint64_t done = 0; done < bytes;) {
      const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, bytes - done));
      TEQ_ASSIGN_OR_RETURN(const std::size_t count, ReadSome(from, done, buffer, wanted, source));
      if (count != wanted) return Changed(source);
      const std::string_view part(buffer.data(), count);
      digest.Add(part);
      TEQ_RETURN_IF_ERROR(to.WriteAt(done, part));
      done += count;
      if (progress && !progress(done, bytes)) return Stopped(source);
    }
    return digest.Hex();
  }

  // Calls visit(directory, name, key) for what is no directory and has a key with this prefix.
  template <typename Visit>
  absl::Status Walk(const std::string& prefix, const Visit& visit) const {
    const std::size_t slash = prefix.rfind('/');
    const std::string above = slash == std::string::npos ? "" : prefix.substr(0, slash + 1);
    if (!above.empty()) TEQ_RETURN_IF_ERROR(CheckKey(above.substr(0, slash)));
    absl::StatusOr<Descriptor> directory = Parent(above, Missing::kFail);
    if (absl::IsNotFound(directory.status())) return absl::OkStatus();
    if (!directory.ok()) return directory.status();
    return WalkDirectory(*std::move(directory), above, prefix, visit);
  }

  template <typename Visit>
  absl::Status WalkDirectory(Descriptor directory, const std::string& above,
                             const std::string& prefix, const Visit& visit) const {
    const int fd = ::fcntl(directory.get(), F_DUPFD_CLOEXEC, 0);
    DIR* stream = fd < 0 ? nullptr : ::fdopendir(fd);
    if (stream == nullptr) return ReadError(errno, root_ / above);
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(stream)) names.emplace_back(entry->d_name);
    ::closedir(stream);
    for (const std::string& name : names) {
      const std::string key = above + name;
      if (name == "." || name == ".." || !CheckKey(key).ok()) continue;
      Descriptor below(OpenDirectoryAt(directory.get(), name));
      if (below.get() < 0) {
        if (key.starts_with(prefix)) TEQ_RETURN_IF_ERROR(visit(directory.get(), name, key));
      } else if (key.starts_with(prefix) || prefix.starts_with(key + "/")) {
        TEQ_RETURN_IF_ERROR(WalkDirectory(std::move(below), key + "/", prefix, visit));
      }
    }
    return absl::OkStatus();
  }

  fs::path root_;
};

}  // namespace

std::shared_ptr<ObjectStore> OpenLocalStore(const fs::path& directory) {
  return std::make_shared<LocalStore>(directory);
}

}  // namespace teq::objects
