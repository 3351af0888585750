#include "server/store/sqlite.h"

#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::store {

absl::Status SqliteError(int result, std::string_view detail, const std::filesystem::path& file) {
  switch (result & 0xff) {
    case SQLITE_FULL:
      return Error(
          absl::StatusCode::kResourceExhausted, "STORE_FULL",
          fmt::format("{}: the disk is full; free space there and try again", file.string()));
    case SQLITE_NOTADB:
      return Error(
          absl::StatusCode::kFailedPrecondition, "NOT_OUR_DATABASE",
          fmt::format("{}: not a teqd database; choose another data directory or move this "
                      "file away",
                      file.string()));
    case SQLITE_CORRUPT:
      return Error(absl::StatusCode::kDataLoss, "STORE_CORRUPT",
                   fmt::format("{}: the database is damaged ({}); restore it from a backup",
                               file.string(), detail));
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
                   fmt::format("{}: cannot be opened for writing ({}); check its owner and "
                               "permissions",
                               file.string(), detail));
    default:
      return Error(
          absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
          fmt::format("{}: {} (SQLite result {}); try again", file.string(), detail, result));
  }
}

Statement::Statement(sqlite3_stmt* statement, const std::filesystem::path* file)
    : statement_(statement), file_(file) {}

Statement& Statement::Bind(int64_t value) {
  bind_result_ |= sqlite3_bind_int64(statement_.get(), next_parameter_++, value);
  return *this;
}

Statement& Statement::Bind(std::string_view text) {
  bind_result_ |= sqlite3_bind_text64(statement_.get(), next_parameter_++, text.data(), text.size(),
                                      SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

Statement& Statement::BindBlob(std::string_view bytes) {
  // A null pointer would bind NULL, not an empty blob.
  const char* data = bytes.empty() ? "" : bytes.data();
  bind_result_ |= sqlite3_bind_blob64(statement_.get(), next_parameter_++, data, bytes.size(),
                                      SQLITE_TRANSIENT);
  return *this;
}

Statement& Statement::BindNull() {
  bind_result_ |= sqlite3_bind_null(statement_.get(), next_parameter_++);
  return *this;
}

absl::StatusOr<bool> Statement::Step() {
  if (bind_result_ != SQLITE_OK) return SqliteError(bind_result_, "cannot bind a value", *file_);
  const int result = sqlite3_step(statement_.get());
  if (result == SQLITE_ROW) return true;
  if (result == SQLITE_DONE) return false;
  return SqliteError(result, sqlite3_errmsg(sqlite3_db_handle(statement_.get())), *file_);
}

absl::Status Statement::Run() {
  while (true) {
    TEQ_ASSIGN_OR_RETURN(const bool row, Step());
    if (!row) return absl::OkStatus();
  }
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }

std::string Statement::Bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return {static_cast<const char*>(data), static_cast<size_t>(size)};
}

bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

Database::Database(sqlite3* database, std::filesystem::path file)
    : database_(database), file_(std::move(file)) {}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::filesystem::path& file) {
  sqlite3* handle = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
  const int result = sqlite3_open_v2(file.c_str(), &handle, flags, nullptr);
  std::unique_ptr<Database> database(new Database(handle, file));
  if (result != SQLITE_OK) return SqliteError(result, sqlite3_errmsg(handle), file);
  sqlite3_extended_result_codes(handle, 1);
  return database;
}

absl::StatusOr<Statement> Database::Prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int result = sqlite3_prepare_v2(database_.get(), sql.data(), static_cast<int>(sql.size()),
                                        &statement, nullptr);
  if (result != SQLITE_OK) return SqliteError(result, sqlite3_errmsg(database_.get()), file_);
  return Statement(statement, &file_);
}

absl::Status Database::Execute(const std::string& sql) {
  const int result = sqlite3_exec(database_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  if (result != SQLITE_OK) return SqliteError(result, sqlite3_errmsg(database_.get()), file_);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Database::QueryInt(std::string_view sql) {
  TEQ_ASSIGN_OR_RETURN(Statement statement, Prepare(sql));
  TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return SqliteError(SQLITE_MISUSE, fmt::format("no row from {}", sql), file_);
  return statement.Int(0);
}

int64_t Database::Changes() const { return sqlite3_changes64(database_.get()); }

int64_t Database::LastInsertKey() const { return sqlite3_last_insert_rowid(database_.get()); }

}  // namespace teq::store
