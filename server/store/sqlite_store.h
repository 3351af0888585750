#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "server/store/job_store.h"
#include "server/store/sqlite.h"

namespace teq::store {

/// Is told how long an operation took: begin (the wait for the write lock), commit, get, list,
/// read_events, read_statistics.
using OperationSink = std::function<void(std::string_view operation, absl::Duration duration)>;

/// What List and CountQueued ask, with their parameters unbound: what they cost depends on the
/// indexes that SQLite chooses for them.
[[nodiscard]] std::string ListSql(const ListQuery& query);
inline constexpr std::string_view kCountQueuedSql =
    "SELECT count(*) FROM jobs WHERE project = ? AND state IN (?, ?)";

/// JobStore in one SQLite file: write-ahead log, every commit synced to the disk. One process at a
/// time may hold the file; see DataDirectory. Not for network file systems.
class SqliteStore final : public JobStore {
 public:
  /// Opens or creates the database and migrates it. Errors of Migrate and of the medium.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(
      const std::filesystem::path& file);

  /// From now on. Before other threads use the store; `sink` is called in theirs.
  void ReportOperations(OperationSink sink) { sink_ = std::move(sink); }

  [[nodiscard]] absl::StatusOr<std::unique_ptr<Transaction>> Begin() override;
  [[nodiscard]] absl::StatusOr<std::optional<JobRecord>> Get(const JobName& name) override;
  [[nodiscard]] absl::StatusOr<std::vector<JobRecord>> List(const ListQuery& query) override;
  [[nodiscard]] absl::StatusOr<std::vector<teq::v1::JobEvent>> ReadEvents(int64_t key,
                                                                          int64_t after,
                                                                          int limit) override;
  [[nodiscard]] absl::StatusOr<std::vector<teq::v1::PerplexitySample>> ReadPerplexities(
      int64_t key) override;
  [[nodiscard]] absl::StatusOr<std::vector<JobRecord>> ReadLeasedOrEndedAfter(
      absl::Time time) override;
  [[nodiscard]] absl::StatusOr<Statistics> ReadStatistics() override;
  [[nodiscard]] absl::StatusOr<std::vector<WorkerRecord>> ReadWorkers(absl::Time since) override;

 private:
  SqliteStore(std::unique_ptr<Database> writer, std::unique_ptr<Database> reader);

  OperationSink sink_;
  std::mutex writer_mutex_;  // held by the open Transaction
  std::unique_ptr<Database> writer_;
  std::mutex reader_mutex_;
  std::unique_ptr<Database> reader_;
};

}  // namespace teq::store
