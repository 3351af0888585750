#include "server/store/sqlite_store.h"

#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "server/store/timestamps.h"
#include "tests/unit/server/harness.h"

namespace teq::store {
namespace {

using teq::v1::Job;
using teq::v1::JobEvent;
using ::testing::HasSubstr;
using ::testing::Not;

class SqliteStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = SqliteStore::Open(file_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  static JobRecord NewRecord(const std::string& id) {
    JobRecord record;
    record.name = {"p", id};
    record.job.set_name("projects/p/jobs/" + id);
    record.job.set_uid("uid-" + id);
    record.job.set_state(Job::STATE_QUEUED);
    record.job.set_fence(0);
    record.output = "file:///out/" + id;
    return record;
  }

  JobRecord Insert(const std::string& id) {
    JobRecord record = NewRecord(id);
    auto transaction = *store_->Begin();
    EXPECT_TRUE(transaction->Insert(record).ok());
    EXPECT_TRUE(transaction->Commit().ok());
    return record;
  }

  /// How SQLite would answer a query, a step a line.
  std::string Plan(std::string_view sql) const {
    const auto database = *Database::Open(file_);
    auto statement = database->Prepare(fmt::format("EXPLAIN QUERY PLAN {}", sql));
    EXPECT_TRUE(statement.ok()) << statement.status();
    std::string plan;
    while (*statement->Step()) plan += statement->Bytes(3) + "\n";
    return plan;
  }

  teq::testing::TempDirectory temp_;
  std::filesystem::path file_ = temp_.path() / "teqd.sqlite3";
  std::unique_ptr<SqliteStore> store_;
};

TEST_F(SqliteStoreTest, WorkersThatAreThereWereSeenLatelyOrHoldALease) {
  const absl::Time now = absl::FromUnixSeconds(1'800'000'000);
  WorkerRecord busy{
      .worker_id = "busy", .boot_id = "1", .session = "s-busy", .capabilities = {}, .seen = now};
  busy.capabilities.add_calibrations()->set_operations_per_second(5);
  WorkerRecord gone{
      .worker_id = "gone", .boot_id = "1", .session = "s-gone", .capabilities = {}, .seen = now};
  WorkerRecord waiting{.worker_id = "a-waiting",
                       .boot_id = "1",
                       .session = "s",
                       .capabilities = {},
                       .seen = now + absl::Minutes(5)};
  JobRecord leased = NewRecord("a");
  leased.job.set_state(Job::STATE_RUNNING);
  leased.lease = {.token = "t", .worker = "busy", .session = "s-busy", .live = true};
  auto transaction = *store_->Begin();
  for (const WorkerRecord& worker : {busy, gone, waiting}) {
    ASSERT_TRUE(transaction->PutWorker(worker).ok());
  }
  ASSERT_TRUE(transaction->Insert(leased).ok());
  ASSERT_TRUE(transaction->Commit().ok());
  const auto workers = store_->ReadWorkers(now + absl::Minutes(1));
  ASSERT_TRUE(workers.ok()) << workers.status();
  ASSERT_EQ(workers->size(), 2);
  EXPECT_EQ((*workers)[0].worker_id, "a-waiting");
  EXPECT_EQ((*workers)[1].worker_id, "busy");
  EXPECT_EQ((*workers)[1].capabilities.calibrations(0).operations_per_second(), 5);
  EXPECT_EQ(store_->ReadWorkers(now)->size(), 3);
}

TEST_F(SqliteStoreTest, TellsHowLongItsOperationsTook) {
  std::map<std::string, int, std::less<>> seen;
  store_->ReportOperations([&seen](std::string_view operation, absl::Duration duration) {
    EXPECT_GE(duration, absl::ZeroDuration());
    ++seen[std::string(operation)];
  });
  Insert("a");
  ASSERT_TRUE(store_->Get({"p", "a"}).ok());
  ASSERT_TRUE(store_->ReadStatistics().ok());
  const std::map<std::string, int, std::less<>> expected = {
      {"begin", 1}, {"commit", 1}, {"get", 1}, {"read_statistics", 1}};
  EXPECT_EQ(seen, expected);
}

TEST_F(SqliteStoreTest, RecordComesBackAsItWasStored) {
  JobRecord record = NewRecord("a");
  record.job.set_state(Job::STATE_PUBLISHING);
  record.job.set_priority(-3);
  *record.job.mutable_create_time() = ToTimestamp(absl::FromUnixMicros(1'234'567));
  record.revision = 4;
  record.last_sequence = 9;
  record.lease = {.token = "token",
                  .worker = "w1",
                  .session = "w1:x",
                  .live = true,
                  .end = LeaseEnd::kReleased,
                  .granted = absl::FromUnixMicros(5),
                  .expires = absl::FromUnixMicros(6),
                  .heartbeat_sequence = 7};
  record.budget = {
      .attempts_before = 1, .preemptions_before = 2, .out_of_memory = 3, .publish_failures = 4};
  record.committed.emplace().set_manifest_sha256("abc");
  record.committed->set_attempt(2);
  record.committed->set_fence(5);
  record.unfit_workers = {"w2", "w3"};
  record.due = absl::FromUnixMicros(8);
  {
    auto transaction = *store_->Begin();
    ASSERT_TRUE(transaction->Insert(record).ok());
    ASSERT_TRUE(transaction->Commit().ok());
  }
  store_.reset();
  store_ = *SqliteStore::Open(file_);
  const auto read = store_->Get({"p", "a"});
  ASSERT_TRUE(read.ok() && read->has_value());
  const JobRecord& back = **read;
  EXPECT_EQ(back.key, record.key);
  EXPECT_EQ(back.job.SerializeAsString(), record.job.SerializeAsString());
  EXPECT_EQ(back.revision, 4);
  EXPECT_EQ(back.output, "file:///out/a");
  EXPECT_EQ(back.last_sequence, 9);
  EXPECT_EQ(back.lease.token, "token");
  EXPECT_EQ(back.lease.worker, "w1");
  EXPECT_EQ(back.lease.session, "w1:x");
  EXPECT_TRUE(back.lease.live);
  EXPECT_EQ(back.lease.end, LeaseEnd::kReleased);
  EXPECT_EQ(back.lease.granted, absl::FromUnixMicros(5));
  EXPECT_EQ(back.lease.expires, absl::FromUnixMicros(6));
  EXPECT_EQ(back.lease.heartbeat_sequence, 7);
  EXPECT_EQ(back.budget.attempts_before, 1);
  EXPECT_EQ(back.budget.preemptions_before, 2);
  EXPECT_EQ(back.budget.out_of_memory, 3);
  EXPECT_EQ(back.budget.publish_failures, 4);
  EXPECT_EQ(back.committed->SerializeAsString(), record.committed->SerializeAsString());
  EXPECT_EQ(back.unfit_workers, record.unfit_workers);
  EXPECT_EQ(back.due, record.due);
}

TEST_F(SqliteStoreTest, NothingIsKeptWithoutCommit) {
  {
    auto transaction = *store_->Begin();
    JobRecord record = NewRecord("a");
    ASSERT_TRUE(transaction->Insert(record).ok());
  }
  EXPECT_FALSE(store_->Get({"p", "a"})->has_value());
  Insert("a");
  EXPECT_TRUE(store_->Get({"p", "a"})->has_value());
}

TEST_F(SqliteStoreTest, UpdateNeedsTheFenceAndTheStateThatWereRead) {
  const JobRecord record = Insert("a");
  for (const auto& [fence, state] :
       {std::pair(1, Job::STATE_QUEUED), std::pair(0, Job::STATE_RUNNING)}) {
    JobRecord stale = record;
    stale.job.set_fence(fence);
    stale.job.set_state(state);
    auto transaction = *store_->Begin();
    const absl::Status status = transaction->Update(stale, stale);
    EXPECT_TRUE(absl::IsAborted(status));
    EXPECT_EQ(ErrorReason(status), "LEASE_LOST");
  }
}

TEST_F(SqliteStoreTest, TwoUnfinishedJobsCannotShareAnOutput) {
  Insert("a");
  JobRecord second = NewRecord("b");
  second.output = "file:///out/a";
  auto transaction = *store_->Begin();
  EXPECT_FALSE(transaction->Insert(second).ok());
}

TEST_F(SqliteStoreTest, EventNumbersAreUniqueByJob) {
  const JobRecord record = Insert("a");
  JobEvent event;
  event.set_sequence(1);
  event.mutable_progress();
  auto transaction = *store_->Begin();
  ASSERT_TRUE(transaction->Append(record.key, {event}).ok());
  EXPECT_FALSE(transaction->Append(record.key, {event}).ok());
}

TEST_F(SqliteStoreTest, RemovedJobTakesItsEventsAndReportAlong) {
  const JobRecord record = Insert("a");
  JobEvent event;
  event.set_sequence(1);
  teq::v1::Report report;
  report.add_notes("x");
  {
    auto transaction = *store_->Begin();
    ASSERT_TRUE(transaction->Append(record.key, {event}).ok());
    ASSERT_TRUE(transaction->PutReport(record.key, &report).ok());
    ASSERT_TRUE(transaction->Commit().ok());
  }
  EXPECT_EQ((*store_->Get({"p", "a"}))->job.report().notes(0), "x");
  {
    auto transaction = *store_->Begin();
    ASSERT_TRUE(transaction->Remove(record).ok());
    ASSERT_TRUE(transaction->Commit().ok());
  }
  EXPECT_TRUE(store_->ReadEvents(record.key, 0, 10)->empty());
  EXPECT_GT(Insert("a").key, record.key) << "a number is never used again";
}

TEST_F(SqliteStoreTest, StatisticsCountStatesAndTheOldestByDevice) {
  JobRecord old = NewRecord("a");
  *old.job.mutable_queue_time() = ToTimestamp(absl::FromUnixSeconds(100));
  old.job.mutable_spec()->mutable_resources()->set_device(teq::v1::DEVICE_CUDA);
  JobRecord young = NewRecord("b");
  *young.job.mutable_queue_time() = ToTimestamp(absl::FromUnixSeconds(200));
  young.job.mutable_spec()->mutable_resources()->set_device(teq::v1::DEVICE_CUDA);
  JobRecord dead = NewRecord("c");
  dead.job.set_state(Job::STATE_FAILED);
  dead.job.set_dead_letter(true);
  auto transaction = *store_->Begin();
  for (JobRecord* record : {&old, &young, &dead}) ASSERT_TRUE(transaction->Insert(*record).ok());
  ASSERT_TRUE(transaction->Commit().ok());
  const auto statistics = store_->ReadStatistics();
  ASSERT_TRUE(statistics.ok()) << statistics.status();
  EXPECT_EQ(statistics->jobs.at(Job::STATE_QUEUED), 2);
  EXPECT_EQ(statistics->jobs.at(Job::STATE_FAILED), 1);
  EXPECT_EQ(statistics->dead_letters, 1);
  EXPECT_EQ(statistics->oldest_queued.at(teq::v1::DEVICE_CUDA), absl::FromUnixSeconds(100));
}

TEST_F(SqliteStoreTest, StatisticsFollowJobsThatMoveAndGo) {
  const JobRecord a = Insert("a");
  const JobRecord b = Insert("b");
  Insert("c");
  JobRecord cancelled = a;
  cancelled.job.set_state(Job::STATE_CANCELLED);
  JobRecord same_state = b;
  same_state.job.set_priority(5);
  {
    auto transaction = *store_->Begin();
    ASSERT_TRUE(transaction->Update(a, cancelled).ok());
    ASSERT_TRUE(transaction->Update(b, same_state).ok());
    ASSERT_TRUE(transaction->Commit().ok());
  }
  const std::map<Job::State, int64_t> moved = {{Job::STATE_QUEUED, 2}, {Job::STATE_CANCELLED, 1}};
  EXPECT_EQ(store_->ReadStatistics()->jobs, moved);
  {
    auto transaction = *store_->Begin();
    ASSERT_TRUE(transaction->Remove(cancelled).ok());
    ASSERT_TRUE(transaction->Commit().ok());
  }
  {
    auto transaction = *store_->Begin();
    ASSERT_TRUE(transaction->Remove(b).ok());  // and nothing is committed
  }
  const std::map<Job::State, int64_t> removed = {{Job::STATE_QUEUED, 2}};
  EXPECT_EQ(store_->ReadStatistics()->jobs, removed);
}

TEST_F(SqliteStoreTest, StatisticsOfAnOldDatabaseCountTheJobsThatAreInIt) {
  Insert("a");
  Insert("b");
  store_.reset();
  ASSERT_TRUE((*Database::Open(file_))
                  ->Execute("DROP TRIGGER jobs_count_inserted; DROP TRIGGER jobs_count_deleted;"
                            "DROP TRIGGER jobs_count_moved; DROP TABLE job_counts;"
                            "DROP INDEX jobs_by_project; DROP INDEX jobs_by_project_state;"
                            "DELETE FROM schema_migrations WHERE version >= 2")
                  .ok());
  store_ = *SqliteStore::Open(file_);
  EXPECT_EQ(store_->ReadStatistics()->jobs.at(Job::STATE_QUEUED), 2);
}

// What a project has had does not make a page of its jobs, or another job of it, dearer.
TEST_F(SqliteStoreTest, PagesOfAProjectAndItsWaitingJobsAreReadFromTheirIndexes) {
  const ListQuery page = {.project = "p", .before_key = 7, .limit = 3};
  ListQuery first = page;
  first.before_key.reset();
  ListQuery labelled = page;
  labelled.terms.push_back(
      {.field = FilterTerm::Field::kLabel, .label = "team", .value = std::string("a")});
  for (const ListQuery& query : {page, first, labelled}) {
    EXPECT_THAT(Plan(ListSql(query)), HasSubstr("USING INDEX jobs_by_project (project=?"));
    EXPECT_THAT(Plan(ListSql(query)), Not(HasSubstr("TEMP B-TREE")));
  }
  ListQuery of_state = page;
  of_state.terms.push_back(
      {.field = FilterTerm::Field::kState, .value = int64_t{Job::STATE_RUNNING}});
  EXPECT_THAT(Plan(ListSql(of_state)),
              HasSubstr("USING INDEX jobs_by_project_state (project=? AND state=? AND key<?)"));
  EXPECT_THAT(Plan(ListSql(of_state)), Not(HasSubstr("TEMP B-TREE")));
  EXPECT_THAT(Plan(kCountQueuedSql),
              HasSubstr("USING COVERING INDEX jobs_by_project_state (project=? AND state=?)"));
}

TEST_F(SqliteStoreTest, OldDatabaseGetsTheIndexesOfProjectsAndKeepsItsJobs) {
  Insert("a");
  store_.reset();
  ASSERT_TRUE((*Database::Open(file_))
                  ->Execute("DROP INDEX jobs_by_project; DROP INDEX jobs_by_project_state;"
                            "DELETE FROM schema_migrations WHERE version >= 3")
                  .ok());
  store_ = *SqliteStore::Open(file_);
  const ListQuery query = {.project = "p", .limit = 3};
  EXPECT_THAT(Plan(ListSql(query)), HasSubstr("jobs_by_project"));
  EXPECT_EQ(store_->List(query)->size(), 1);
  EXPECT_EQ((*store_->Begin())->CountQueued("p").value(), 1);
}

TEST_F(SqliteStoreTest, NewestAttemptsPerplexitiesAreRead) {
  const JobRecord record = Insert("a");
  auto transaction = *store_->Begin();
  std::vector<JobEvent> events(4);
  events[0].mutable_state_change()->set_to(Job::STATE_RUNNING);
  events[1].mutable_perplexity()->set_value(8);
  events[2].mutable_state_change()->set_to(Job::STATE_RUNNING);
  events[3].mutable_perplexity()->set_value(7);
  for (size_t i = 0; i < events.size(); ++i) events[i].set_sequence(static_cast<int64_t>(i) + 1);
  ASSERT_TRUE(transaction->Append(record.key, events).ok());
  ASSERT_TRUE(transaction->Commit().ok());
  const auto perplexities = store_->ReadPerplexities(record.key);
  ASSERT_TRUE(perplexities.ok()) << perplexities.status();
  ASSERT_EQ(perplexities->size(), 1);
  EXPECT_EQ(perplexities->front().value(), 7);
}

TEST_F(SqliteStoreTest, FullDiskIsNamedAndLeavesNoLock) {
  // SQLite's own limit on pages stands for a disk that is full.
  const auto other = *Database::Open(file_);
  const int64_t pages = *other->QueryInt("PRAGMA page_count");
  ASSERT_TRUE(other->Execute(fmt::format("PRAGMA max_page_count = {}", pages)).ok());
  absl::Status status = other->Execute(
      "CREATE TABLE filler AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
      "LIMIT 100000) SELECT i, hex(randomblob(100)) FROM n");
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), "STORE_FULL");
  EXPECT_THAT(std::string(status.message()), HasSubstr(file_.string()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("the disk is full"));
  EXPECT_TRUE(store_->Begin().ok()) << "the failed statement left no lock behind";
}

TEST_F(SqliteStoreTest, LockedDatabaseIsUnavailable) {
  const absl::Status status = SqliteError(SQLITE_BUSY, "database is locked", file_);
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(ErrorReason(status), "STORE_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(file_.string()));
}

}  // namespace
}  // namespace teq::store
