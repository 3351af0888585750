#include "server/store/backup.h"

#include <fcntl.h>
#include <unistd.h>

#include <system_error>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/store/migrations.h"
#include "server/store/sqlite.h"

namespace teq::store {
namespace {

absl::Status CannotWrite(const std::filesystem::path& file, const std::error_code& error) {
  return Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
               fmt::format("{}: cannot be written: {}; give another file by --to", file.string(),
                           error.message()));
}

absl::Status Sync(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = descriptor >= 0 && ::fsync(descriptor) == 0;
  const std::error_code error(errno, std::generic_category());
  if (descriptor >= 0) ::close(descriptor);
  return synced ? absl::OkStatus() : CannotWrite(path, error);
}

// SQLite copies into an empty file too, but would blame the source for a place it cannot write to.
absl::Status MakeEmpty(const std::filesystem::path& target) {
  const int descriptor = ::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return CannotWrite(target, std::error_code(errno, std::generic_category()));
  }
  ::close(descriptor);
  return absl::OkStatus();
}

absl::Status CopyInto(const std::filesystem::path& database, const std::filesystem::path& target) {
  TEQ_ASSIGN_OR_RETURN(const std::unique_ptr<Database> source, Database::Open(database));
  TEQ_RETURN_IF_ERROR(source->Execute("PRAGMA busy_timeout = 5000"));
  TEQ_ASSIGN_OR_RETURN(const int64_t application, source->QueryInt("PRAGMA application_id"));
  if (application != kApplicationId) {
    return Error(absl::StatusCode::kFailedPrecondition, "NOT_OUR_DATABASE",
                 fmt::format("{}: another program made this database; name teqd's directory by "
                             "--data",
                             database.string()));
  }
  TEQ_ASSIGN_OR_RETURN(Statement copy, source->Prepare("VACUUM INTO ?"));
  return copy.Bind(target.string()).Run();
}

}  // namespace

absl::Status BackUp(const std::filesystem::path& database, const std::filesystem::path& target) {
  std::error_code error;
  if (!std::filesystem::exists(database, error)) {
    return Error(absl::StatusCode::kNotFound, "DATABASE_NOT_FOUND",
                 fmt::format("{}: there is no database; name the server's directory by --data",
                             database.string()));
  }
  if (std::filesystem::exists(target, error)) {
    return Error(absl::StatusCode::kAlreadyExists, "BACKUP_EXISTS",
                 fmt::format("{}: is there already; remove it, or give another file by --to",
                             target.string()));
  }
  // Under its name a backup is whole.
  const std::filesystem::path partial = target.string() + ".partial";
  std::filesystem::remove(partial, error);
  absl::Status status = MakeEmpty(partial);
  if (status.ok()) status = CopyInto(database, partial);
  if (status.ok()) status = Sync(partial);
  if (status.ok()) {
    std::filesystem::rename(partial, target, error);
    if (error) status = CannotWrite(target, error);
  }
  if (!status.ok()) {
    std::filesystem::remove(partial, error);
    return status;
  }
  return Sync(std::filesystem::absolute(target).parent_path());
}

}  // namespace teq::store
