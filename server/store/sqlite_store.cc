#include "server/store/sqlite_store.h"

#include <array>
#include <chrono>
#include <sstream>
#include <string>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "server/store/migrations.h"
#include "server/store/timestamps.h"

namespace teq::store {
namespace {

using teq::v1::Job;
using teq::v1::JobEvent;
using teq::v1::Report;

constexpr std::string_view kJobColumns =
    "key, project, job_id, job, revision, output, last_sequence, lease_token, lease_worker, "
    "lease_session, lease_live, lease_end, lease_granted, lease_expires, heartbeat_sequence, "
    "attempts_before, preemptions_before, out_of_memory, publish_failures, committed_sha256, "
    "committed_attempt, committed_fence, unfit_workers, due";

constexpr std::string_view kWorkerColumns = "worker_id, boot_id, session, capabilities, seen";

/// Columns of INSERT and UPDATE, in the order of BindJob.
constexpr std::array<std::string_view, 34> kStoredColumns = {"uid",
                                                             "project",
                                                             "job_id",
                                                             "state",
                                                             "finished",
                                                             "dead_letter",
                                                             "priority",
                                                             "device",
                                                             "output",
                                                             "create_time",
                                                             "queue_time",
                                                             "end_time",
                                                             "not_before",
                                                             "due",
                                                             "fence",
                                                             "revision",
                                                             "last_sequence",
                                                             "lease_token",
                                                             "lease_worker",
                                                             "lease_session",
                                                             "lease_live",
                                                             "lease_end",
                                                             "lease_granted",
                                                             "lease_expires",
                                                             "heartbeat_sequence",
                                                             "attempts_before",
                                                             "preemptions_before",
                                                             "out_of_memory",
                                                             "publish_failures",
                                                             "committed_sha256",
                                                             "committed_attempt",
                                                             "committed_fence",
                                                             "unfit_workers",
                                                             "job"};

int64_t Micros(absl::Time time) { return absl::ToUnixMicros(time); }

int64_t Micros(const google::protobuf::Timestamp& timestamp) {
  return Micros(FromTimestamp(timestamp));
}

absl::Status Damaged(int64_t key, std::string_view what) {
  return Error(absl::StatusCode::kDataLoss, "STORE_CORRUPT",
               fmt::format("the {} of job number {} cannot be read; restore the database from a "
                           "backup",
                           what, key));
}

WorkerRecord ReadWorker(Statement& row) {
  WorkerRecord worker{.worker_id = row.Bytes(0),
                      .boot_id = row.Bytes(1),
                      .session = row.Bytes(2),
                      .capabilities = {},
                      .seen = absl::FromUnixMicros(row.Int(4))};
  worker.capabilities.ParseFromString(row.Bytes(3));
  return worker;
}

std::vector<std::string> SplitWorkers(const std::string& text) {
  std::vector<std::string> workers;
  std::istringstream stream(text);
  for (std::string worker; std::getline(stream, worker, ',');) workers.push_back(worker);
  return workers;
}

absl::StatusOr<JobRecord> ReadJob(const Statement& row) {
  JobRecord record;
  int column = 0;
  record.key = row.Int(column++);
  record.name.project = row.Bytes(column++);
  record.name.job = row.Bytes(column++);
  if (!record.job.ParseFromString(row.Bytes(column++))) return Damaged(record.key, "content");
  record.revision = row.Int(column++);
  record.output = row.Bytes(column++);
  record.last_sequence = row.Int(column++);
  record.lease.token = row.Bytes(column++);
  record.lease.worker = row.Bytes(column++);
  record.lease.session = row.Bytes(column++);
  record.lease.live = row.Int(column++) != 0;
  record.lease.end = static_cast<LeaseEnd>(row.Int(column++));
  record.lease.granted = absl::FromUnixMicros(row.Int(column++));
  record.lease.expires = absl::FromUnixMicros(row.Int(column++));
  record.lease.heartbeat_sequence = row.Int(column++);
  record.budget.attempts_before = static_cast<int32_t>(row.Int(column++));
  record.budget.preemptions_before = static_cast<int32_t>(row.Int(column++));
  record.budget.out_of_memory = static_cast<int32_t>(row.Int(column++));
  record.budget.publish_failures = static_cast<int32_t>(row.Int(column++));
  const bool committed = !row.IsNull(column);
  teq::v1::CommittedContent content;
  content.set_manifest_sha256(row.Bytes(column++));
  content.set_attempt(static_cast<int32_t>(row.Int(column++)));
  content.set_fence(row.Int(column++));
  if (committed) record.committed = content;
  record.unfit_workers = SplitWorkers(row.Bytes(column++));
  if (!row.IsNull(column)) record.due = absl::FromUnixMicros(row.Int(column));
  return record;
}

absl::StatusOr<std::vector<JobRecord>> ReadJobs(Statement& statement) {
  std::vector<JobRecord> records;
  while (true) {
    TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return records;
    TEQ_ASSIGN_OR_RETURN(JobRecord record, ReadJob(statement));
    records.push_back(std::move(record));
  }
}

absl::StatusOr<std::optional<JobRecord>> ReadOptionalJob(Statement& statement) {
  TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return std::nullopt;
  TEQ_ASSIGN_OR_RETURN(JobRecord record, ReadJob(statement));
  return std::optional(std::move(record));
}

void BindTime(Statement& statement, bool present, const google::protobuf::Timestamp& time) {
  if (present) {
    statement.Bind(Micros(time));
  } else {
    statement.BindNull();
  }
}

void BindJob(Statement& statement, const JobRecord& record) {
  const Job& job = record.job;
  statement.Bind(job.uid()).Bind(record.name.project).Bind(record.name.job);
  statement.Bind(job.state()).Bind(IsFinished(job.state())).Bind(job.dead_letter());
  statement.Bind(job.priority()).Bind(job.spec().resources().device()).Bind(record.output);
  statement.Bind(Micros(job.create_time())).Bind(Micros(job.queue_time()));
  BindTime(statement, job.has_end_time(), job.end_time());
  BindTime(statement, job.has_next_attempt_time(), job.next_attempt_time());
  if (record.due == absl::InfiniteFuture()) {
    statement.BindNull();
  } else {
    statement.Bind(Micros(record.due));
  }
  statement.Bind(job.fence()).Bind(record.revision).Bind(record.last_sequence);
  const LeaseRecord& lease = record.lease;
  statement.Bind(lease.token).Bind(lease.worker).Bind(lease.session).Bind(lease.live);
  statement.Bind(static_cast<int64_t>(lease.end));
  statement.Bind(Micros(lease.granted)).Bind(Micros(lease.expires)).Bind(lease.heartbeat_sequence);
  const BudgetRecord& budget = record.budget;
  statement.Bind(budget.attempts_before).Bind(budget.preemptions_before);
  statement.Bind(budget.out_of_memory).Bind(budget.publish_failures);
  if (record.committed) {
    statement.Bind(record.committed->manifest_sha256());
    statement.Bind(record.committed->attempt()).Bind(record.committed->fence());
  } else {
    statement.BindNull().Bind(int64_t{0}).Bind(int64_t{0});
  }
  statement.Bind(fmt::format("{}", fmt::join(record.unfit_workers, ",")));
  statement.BindBlob(job.SerializeAsString());
}

std::string InsertJobSql() {
  std::string marks = "?";
  for (size_t i = 1; i < kStoredColumns.size(); ++i) marks += ", ?";
  return fmt::format("INSERT INTO jobs ({}) VALUES ({})", fmt::join(kStoredColumns, ", "), marks);
}

std::string UpdateJobSql() {
  return fmt::format("UPDATE jobs SET {} = ? WHERE key = ? AND fence = ? AND state = ?",
                     fmt::join(kStoredColumns, " = ?, "));
}

std::string_view OperatorSql(FilterTerm::Operator op) {
  switch (op) {
    case FilterTerm::Operator::kEqual:
      return "=";
    case FilterTerm::Operator::kNotEqual:
      return "<>";
    case FilterTerm::Operator::kLess:
      return "<";
    case FilterTerm::Operator::kLessOrEqual:
      return "<=";
    case FilterTerm::Operator::kGreater:
      return ">";
    case FilterTerm::Operator::kGreaterOrEqual:
      return ">=";
  }
  return "=";
}

std::string TermSql(const FilterTerm& term) {
  switch (term.field) {
    case FilterTerm::Field::kState:
      return fmt::format("state {} ?", OperatorSql(term.op));
    case FilterTerm::Field::kPriority:
      return fmt::format("priority {} ?", OperatorSql(term.op));
    case FilterTerm::Field::kCreateTime:
      return fmt::format("create_time {} ?", OperatorSql(term.op));
    case FilterTerm::Field::kLabel:
      return fmt::format(
          "{}EXISTS (SELECT 1 FROM job_labels l WHERE l.job_key = jobs.key AND l.label = ? AND "
          "l.value = ?)",
          term.op == FilterTerm::Operator::kNotEqual ? "NOT " : "");
  }
  return "1";
}

void BindTerm(Statement& statement, const FilterTerm& term) {
  if (term.field == FilterTerm::Field::kLabel) {
    statement.Bind(term.label).Bind(std::get<std::string>(term.value));
  } else {
    statement.Bind(std::get<int64_t>(term.value));
  }
}

/// Tells a sink how long it lived.
class Stopwatch {
 public:
  Stopwatch(const OperationSink& sink, std::string_view operation)
      : sink_(sink), operation_(operation), begin_(std::chrono::steady_clock::now()) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    if (sink_) sink_(operation_, absl::FromChrono(std::chrono::steady_clock::now() - begin_));
  }

 private:
  const OperationSink& sink_;
  const std::string_view operation_;
  const std::chrono::steady_clock::time_point begin_;
};

/// Begins on construction's behalf of SqliteStore::Begin; rolls back unless committed.
class SqliteTransaction final : public Transaction {
 public:
  SqliteTransaction(Database* database, std::unique_lock<std::mutex> lock,
                    const OperationSink& sink)
      : database_(database), lock_(std::move(lock)), sink_(sink) {}
  SqliteTransaction(const SqliteTransaction&) = delete;
  SqliteTransaction& operator=(const SqliteTransaction&) = delete;
  ~SqliteTransaction() override {
    // A failed statement may have ended the transaction already; then there is nothing to undo.
    if (!committed_) database_->Execute("ROLLBACK").IgnoreError();
  }

  absl::StatusOr<std::optional<JobRecord>> FindByName(const JobName& name) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, SelectJobs("WHERE project = ? AND job_id = ?"));
    statement.Bind(name.project).Bind(name.job);
    return ReadOptionalJob(statement);
  }

  absl::StatusOr<std::optional<JobRecord>> FindByUid(std::string_view uid) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, SelectJobs("WHERE uid = ?"));
    statement.Bind(uid);
    return ReadOptionalJob(statement);
  }

  absl::StatusOr<std::optional<JobRecord>> FindByLease(std::string_view token) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, SelectJobs("WHERE lease_token = ?"));
    statement.Bind(token);
    return ReadOptionalJob(statement);
  }

  absl::StatusOr<std::optional<JobRecord>> FindUnfinishedByOutput(
      std::string_view output) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, SelectJobs("WHERE output = ? AND finished = 0"));
    statement.Bind(output);
    return ReadOptionalJob(statement);
  }

  absl::StatusOr<std::vector<JobRecord>> FindLeasesOf(std::string_view session) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement,
                         SelectJobs("WHERE lease_live = 1 AND lease_session = ?"));
    statement.Bind(session);
    return ReadJobs(statement);
  }

  absl::StatusOr<std::vector<JobRecord>> FindLeases() override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, SelectJobs("WHERE lease_live = 1"));
    return ReadJobs(statement);
  }

  absl::StatusOr<std::optional<JobRecord>> FindNext(const Claim& claim) override {
    std::string devices = "0";  // DEVICE_UNSPECIFIED runs anywhere, as ANY does
    for (const int device : claim.devices) devices += fmt::format(", {}", device);
    TEQ_ASSIGN_OR_RETURN(
        Statement statement,
        SelectJobs(fmt::format(
            "LEFT JOIN (SELECT project AS busy_project, count(*) AS leases FROM jobs WHERE "
            "lease_live = 1 GROUP BY project) ON busy_project = project "
            "WHERE ((state = {} AND device IN ({})) "
            "OR (state = {} AND lease_live = 0 AND not_before IS NULL)) "
            "AND instr(',' || unfit_workers || ',', ',' || ? || ',') = 0 "
            "ORDER BY state = {} DESC, priority DESC, coalesce(leases, 0), create_time, key LIMIT "
            "1",
            static_cast<int>(Job::STATE_QUEUED), devices, static_cast<int>(Job::STATE_PUBLISHING),
            static_cast<int>(Job::STATE_PUBLISHING))));
    statement.Bind(claim.worker_id);
    return ReadOptionalJob(statement);
  }

  absl::StatusOr<std::vector<JobRecord>> FindDue(absl::Time now, int limit) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, SelectJobs("WHERE due <= ? ORDER BY due LIMIT ?"));
    statement.Bind(Micros(now)).Bind(limit);
    return ReadJobs(statement);
  }

  absl::StatusOr<int64_t> CountQueued(std::string_view project) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, database_->Prepare(kCountQueuedSql));
    statement.Bind(project).Bind(Job::STATE_QUEUED).Bind(Job::STATE_RETRY_WAIT);
    TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
    return row ? statement.Int(0) : 0;
  }

  absl::Status Insert(JobRecord& record) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, database_->Prepare(InsertJobSql()));
    BindJob(statement, record);
    TEQ_RETURN_IF_ERROR(statement.Run());
    record.key = database_->LastInsertKey();
    return PutLabels(record);
  }

  absl::Status Update(const JobRecord& before, const JobRecord& after) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, database_->Prepare(UpdateJobSql()));
    BindJob(statement, after);
    statement.Bind(before.key).Bind(before.job.fence()).Bind(before.job.state());
    TEQ_RETURN_IF_ERROR(statement.Run());
    if (database_->Changes() != 1) {
      return Error(absl::StatusCode::kAborted, "LEASE_LOST",
                   fmt::format("{} changed meanwhile; read it again", before.job.name()));
    }
    // Labels change by a new revision only.
    return before.revision == after.revision ? absl::OkStatus() : PutLabels(after);
  }

  absl::Status Remove(const JobRecord& record) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement, database_->Prepare("DELETE FROM jobs WHERE key = ?"));
    return statement.Bind(record.key).Run();
  }

  absl::Status Append(int64_t key, const std::vector<JobEvent>& events) override {
    for (const JobEvent& event : events) {
      TEQ_ASSIGN_OR_RETURN(
          Statement statement,
          database_->Prepare(
              "INSERT INTO job_events (job_key, sequence, kind, event) VALUES (?, ?, ?, ?)"));
      statement.Bind(key).Bind(event.sequence()).Bind(int64_t{event.payload_case()});
      statement.BindBlob(event.SerializeAsString());
      TEQ_RETURN_IF_ERROR(statement.Run());
    }
    return absl::OkStatus();
  }

  absl::Status PutReport(int64_t key, const Report* report) override {
    TEQ_ASSIGN_OR_RETURN(
        Statement statement,
        database_->Prepare(
            report == nullptr
                ? "DELETE FROM job_reports WHERE job_key = ?"
                : "INSERT OR REPLACE INTO job_reports (job_key, report) VALUES (?, ?)"));
    statement.Bind(key);
    if (report != nullptr) statement.BindBlob(report->SerializeAsString());
    return statement.Run();
  }

  absl::StatusOr<std::optional<RequestRecord>> FindRequest(std::string_view project,
                                                           std::string_view request_id) override {
    TEQ_ASSIGN_OR_RETURN(
        Statement statement,
        database_->Prepare(
            "SELECT digest, job_uid FROM requests WHERE project = ? AND request_id = ?"));
    statement.Bind(project).Bind(request_id);
    TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return std::nullopt;
    return RequestRecord{.digest = statement.Bytes(0), .job_uid = statement.Bytes(1)};
  }

  absl::Status PutRequest(std::string_view project, std::string_view request_id,
                          const RequestRecord& request, absl::Time now) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("INSERT INTO requests (project, request_id, digest, "
                                            "job_uid, time) VALUES (?, ?, ?, ?, ?)"));
    statement.Bind(project).Bind(request_id).Bind(request.digest).Bind(request.job_uid);
    return statement.Bind(Micros(now)).Run();
  }

  absl::Status RemoveRequestsBefore(absl::Time time) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare("DELETE FROM requests WHERE time < ?"));
    return statement.Bind(Micros(time)).Run();
  }

  absl::StatusOr<std::optional<WorkerRecord>> FindWorker(std::string_view worker_id) override {
    TEQ_ASSIGN_OR_RETURN(Statement statement,
                         database_->Prepare(fmt::format(
                             "SELECT {} FROM workers WHERE worker_id = ?", kWorkerColumns)));
    statement.Bind(worker_id);
    TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return std::nullopt;
    return ReadWorker(statement);
  }

  absl::Status PutWorker(const WorkerRecord& worker) override {
    TEQ_ASSIGN_OR_RETURN(
        Statement statement,
        database_->Prepare("INSERT OR REPLACE INTO workers (worker_id, boot_id, session, "
                           "capabilities, seen) VALUES (?, ?, ?, ?, ?)"));
    statement.Bind(worker.worker_id).Bind(worker.boot_id).Bind(worker.session);
    statement.BindBlob(worker.capabilities.SerializeAsString()).Bind(Micros(worker.seen));
    return statement.Run();
  }

  absl::Status RemoveWorkersUnseenSince(absl::Time time) override {
    TEQ_ASSIGN_OR_RETURN(
        Statement statement,
        database_->Prepare("DELETE FROM workers WHERE seen < ? AND NOT EXISTS (SELECT 1 FROM jobs "
                           "WHERE lease_live = 1 AND lease_session = session)"));
    return statement.Bind(Micros(time)).Run();
  }

  absl::Status Commit() override {
    const Stopwatch stopwatch(sink_, "commit");
    TEQ_RETURN_IF_ERROR(database_->Execute("COMMIT"));
    committed_ = true;
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<Statement> SelectJobs(std::string_view rest) {
    return database_->Prepare(fmt::format("SELECT {} FROM jobs {}", kJobColumns, rest));
  }

  absl::Status PutLabels(const JobRecord& record) {
    TEQ_ASSIGN_OR_RETURN(Statement clear,
                         database_->Prepare("DELETE FROM job_labels WHERE job_key = ?"));
    TEQ_RETURN_IF_ERROR(clear.Bind(record.key).Run());
    for (const auto& [label, value] : record.job.labels()) {
      TEQ_ASSIGN_OR_RETURN(
          Statement statement,
          database_->Prepare("INSERT INTO job_labels (job_key, label, value) VALUES (?, ?, ?)"));
      TEQ_RETURN_IF_ERROR(statement.Bind(record.key).Bind(label).Bind(value).Run());
    }
    return absl::OkStatus();
  }

  Database* database_;
  std::unique_lock<std::mutex> lock_;
  const OperationSink& sink_;
  bool committed_ = false;
};

}  // namespace

std::string ListSql(const ListQuery& query) {
  std::string sql = fmt::format("SELECT {} FROM jobs WHERE 1", kJobColumns);
  if (!query.project.empty()) sql += " AND project = ?";
  if (query.before_key) sql += " AND key < ?";
  for (const FilterTerm& term : query.terms) sql += " AND " + TermSql(term);
  return sql + " ORDER BY key DESC LIMIT ?";
}

SqliteStore::SqliteStore(std::unique_ptr<Database> writer, std::unique_ptr<Database> reader)
    : writer_(std::move(writer)), reader_(std::move(reader)) {}

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::filesystem::path& file) {
  TEQ_ASSIGN_OR_RETURN(std::unique_ptr<Database> writer, Database::Open(file));
  TEQ_RETURN_IF_ERROR(writer->Execute("PRAGMA busy_timeout = 5000"));
  TEQ_RETURN_IF_ERROR(Migrate(*writer, file));
  // Only now is it certain that the file is ours to change.
  TEQ_RETURN_IF_ERROR(writer->Execute(
      "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"));
  TEQ_ASSIGN_OR_RETURN(std::unique_ptr<Database> reader, Database::Open(file));
  TEQ_RETURN_IF_ERROR(reader->Execute("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON;"));
  return std::unique_ptr<SqliteStore>(new SqliteStore(std::move(writer), std::move(reader)));
}

absl::StatusOr<std::unique_ptr<Transaction>> SqliteStore::Begin() {
  const Stopwatch stopwatch(sink_, "begin");
  std::unique_lock lock(writer_mutex_);
  TEQ_RETURN_IF_ERROR(writer_->Execute("BEGIN IMMEDIATE"));
  return std::make_unique<SqliteTransaction>(writer_.get(), std::move(lock), sink_);
}

absl::StatusOr<std::optional<JobRecord>> SqliteStore::Get(const JobName& name) {
  const Stopwatch stopwatch(sink_, "get");
  const std::lock_guard lock(reader_mutex_);
  TEQ_ASSIGN_OR_RETURN(
      Statement statement,
      reader_->Prepare(fmt::format("SELECT {}, report FROM jobs LEFT JOIN job_reports ON job_key = "
                                   "key WHERE project = ? AND job_id = ?",
                                   kJobColumns)));
  statement.Bind(name.project).Bind(name.job);
  TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
  if (!row) return std::nullopt;
  TEQ_ASSIGN_OR_RETURN(JobRecord record, ReadJob(statement));
  constexpr int kReportColumn = 24;
  if (!statement.IsNull(kReportColumn) &&
      !record.job.mutable_report()->ParseFromString(statement.Bytes(kReportColumn))) {
    return Damaged(record.key, "report");
  }
  return std::optional(std::move(record));
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::List(const ListQuery& query) {
  const Stopwatch stopwatch(sink_, "list");
  const std::lock_guard lock(reader_mutex_);
  TEQ_ASSIGN_OR_RETURN(Statement statement, reader_->Prepare(ListSql(query)));
  if (!query.project.empty()) statement.Bind(query.project);
  if (query.before_key) statement.Bind(*query.before_key);
  for (const FilterTerm& term : query.terms) BindTerm(statement, term);
  statement.Bind(query.limit);
  return ReadJobs(statement);
}

absl::StatusOr<std::vector<JobEvent>> SqliteStore::ReadEvents(int64_t key, int64_t after,
                                                              int limit) {
  const Stopwatch stopwatch(sink_, "read_events");
  const std::lock_guard lock(reader_mutex_);
  TEQ_ASSIGN_OR_RETURN(Statement statement,
                       reader_->Prepare("SELECT event FROM job_events WHERE job_key = ? AND "
                                        "sequence > ? ORDER BY sequence LIMIT ?"));
  statement.Bind(key).Bind(after).Bind(limit);
  std::vector<JobEvent> events;
  while (true) {
    TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return events;
    if (!events.emplace_back().ParseFromString(statement.Bytes(0))) return Damaged(key, "event");
  }
}

absl::StatusOr<std::vector<teq::v1::PerplexitySample>> SqliteStore::ReadPerplexities(int64_t key) {
  const std::lock_guard lock(reader_mutex_);
  TEQ_ASSIGN_OR_RETURN(
      Statement statement,
      reader_->Prepare("SELECT event FROM job_events WHERE job_key = ? AND kind IN (?, ?) "
                       "ORDER BY sequence"));
  statement.Bind(key).Bind(int64_t{JobEvent::kPerplexity}).Bind(int64_t{JobEvent::kStateChange});
  std::vector<teq::v1::PerplexitySample> samples;
  while (true) {
    TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return samples;
    JobEvent event;
    if (!event.ParseFromString(statement.Bytes(0))) return Damaged(key, "event");
    if (event.has_perplexity()) {
      samples.push_back(event.perplexity());
    } else if (event.state_change().to() == Job::STATE_RUNNING) {
      samples.clear();  // an attempt begins
    }
  }
}

absl::StatusOr<std::vector<JobRecord>> SqliteStore::ReadLeasedOrEndedAfter(absl::Time time) {
  const std::lock_guard lock(reader_mutex_);
  TEQ_ASSIGN_OR_RETURN(
      Statement statement,
      reader_->Prepare(
          fmt::format("SELECT {} FROM jobs WHERE lease_live = 1 OR end_time > ?", kJobColumns)));
  statement.Bind(Micros(time));
  return ReadJobs(statement);
}

absl::StatusOr<Statistics> SqliteStore::ReadStatistics() {
  const Stopwatch stopwatch(sink_, "read_statistics");
  const std::lock_guard lock(reader_mutex_);
  Statistics statistics;
  TEQ_ASSIGN_OR_RETURN(Statement states,
                       reader_->Prepare("SELECT state, jobs FROM job_counts WHERE jobs > 0"));
  while (true) {
    TEQ_ASSIGN_OR_RETURN(const bool row, states.Step());
    if (!row) break;
    statistics.jobs[static_cast<Job::State>(states.Int(0))] = states.Int(1);
  }
  TEQ_ASSIGN_OR_RETURN(
      Statement oldest,
      reader_->Prepare("SELECT device, min(queue_time) FROM jobs WHERE state = ? GROUP BY device"));
  oldest.Bind(Job::STATE_QUEUED);
  while (true) {
    TEQ_ASSIGN_OR_RETURN(const bool row, oldest.Step());
    if (!row) break;
    statistics.oldest_queued[static_cast<teq::v1::Device>(oldest.Int(0))] =
        absl::FromUnixMicros(oldest.Int(1));
  }
  TEQ_ASSIGN_OR_RETURN(statistics.leases,
                       reader_->QueryInt("SELECT count(*) FROM jobs WHERE lease_live = 1"));
  TEQ_ASSIGN_OR_RETURN(statistics.dead_letters,
                       reader_->QueryInt("SELECT count(*) FROM jobs WHERE dead_letter = 1"));
  return statistics;
}

absl::StatusOr<std::vector<WorkerRecord>> SqliteStore::ReadWorkers(absl::Time since) {
  const std::lock_guard lock(reader_mutex_);
  TEQ_ASSIGN_OR_RETURN(Statement statement, reader_->Prepare(fmt::format(
                                                "SELECT {} FROM workers WHERE seen >= ? OR EXISTS "
                                                "(SELECT 1 FROM jobs WHERE lease_live = 1 "
                                                "AND lease_session = session) ORDER BY worker_id",
                                                kWorkerColumns)));
  statement.Bind(Micros(since));
  std::vector<WorkerRecord> workers;
  while (true) {
    TEQ_ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return workers;
    workers.push_back(ReadWorker(statement));
  }
}

}  // namespace teq::store
