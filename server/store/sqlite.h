#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace teq::store {

/// A prepared SQLite statement. Parameters are bound in order; an error of a binding is reported by
/// the next Step. Belongs to one thread at a time.
class Statement {
 public:
  Statement& Bind(int64_t value);
  Statement& Bind(std::string_view text);
  Statement& BindBlob(std::string_view bytes);
  Statement& BindNull();

  /// True: a row can be read. False: done.
  [[nodiscard]] absl::StatusOr<bool> Step();
  /// Steps to the end.
  [[nodiscard]] absl::Status Run();

  [[nodiscard]] int64_t Int(int column) const;
  [[nodiscard]] std::string Bytes(int column) const;
  [[nodiscard]] bool IsNull(int column) const;

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  Statement(sqlite3_stmt* statement, const std::filesystem::path* file);

  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  const std::filesystem::path* file_;
  int next_parameter_ = 1;
  int bind_result_ = SQLITE_OK;
};

/// A connection to an SQLite file. Belongs to one thread at a time; outlives its statements.
class Database {
 public:
  /// Opens or creates `file`. Nothing is written yet.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Database>> Open(
      const std::filesystem::path& file);

  [[nodiscard]] absl::StatusOr<Statement> Prepare(std::string_view sql);
  /// Runs statements without parameters or rows.
  [[nodiscard]] absl::Status Execute(const std::string& sql);
  /// The single integer of a query.
  [[nodiscard]] absl::StatusOr<int64_t> QueryInt(std::string_view sql);
  /// Rows changed by the last statement.
  [[nodiscard]] int64_t Changes() const;
  [[nodiscard]] int64_t LastInsertKey() const;

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close(database); }
  };
  Database(sqlite3* database, std::filesystem::path file);

  std::unique_ptr<sqlite3, Close> database_;
  std::filesystem::path file_;
};

/// A status for an SQLite result code, naming `file` and the remedy: RESOURCE_EXHAUSTED STORE_FULL,
/// FAILED_PRECONDITION NOT_OUR_DATABASE, DATA_LOSS STORE_CORRUPT, else UNAVAILABLE
/// STORE_UNAVAILABLE.
[[nodiscard]] absl::Status SqliteError(int result, std::string_view detail,
                                       const std::filesystem::path& file);

}  // namespace teq::store
