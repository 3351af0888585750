#include "server/store/migrations.h"

#include <array>
#include <string>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::store {
namespace {

constexpr std::array<std::string_view, 3> kMigrations = {R"sql(
CREATE TABLE jobs (
  key INTEGER PRIMARY KEY AUTOINCREMENT,
  uid TEXT NOT NULL UNIQUE,
  project TEXT NOT NULL,
  job_id TEXT NOT NULL,
  state INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  dead_letter INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  device INTEGER NOT NULL,
  output TEXT NOT NULL,
  create_time INTEGER NOT NULL,
  queue_time INTEGER NOT NULL,
  end_time INTEGER,
  not_before INTEGER,
  due INTEGER,
  fence INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  lease_token TEXT NOT NULL,
  lease_worker TEXT NOT NULL,
  lease_session TEXT NOT NULL,
  lease_live INTEGER NOT NULL,
  lease_end INTEGER NOT NULL,
  lease_granted INTEGER NOT NULL,
  lease_expires INTEGER NOT NULL,
  heartbeat_sequence INTEGER NOT NULL,
  attempts_before INTEGER NOT NULL,
  preemptions_before INTEGER NOT NULL,
  out_of_memory INTEGER NOT NULL,
  publish_failures INTEGER NOT NULL,
  committed_sha256 TEXT,
  committed_attempt INTEGER NOT NULL,
  committed_fence INTEGER NOT NULL,
  unfit_workers TEXT NOT NULL,
  job BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX jobs_by_name ON jobs (project, job_id);
CREATE UNIQUE INDEX jobs_by_output ON jobs (output) WHERE finished = 0;
CREATE INDEX jobs_by_state ON jobs (state, priority DESC, key);
CREATE INDEX jobs_by_due ON jobs (due) WHERE due IS NOT NULL;
CREATE INDEX jobs_by_lease ON jobs (lease_token);
CREATE INDEX jobs_with_lease ON jobs (project) WHERE lease_live = 1;
CREATE INDEX jobs_by_end ON jobs (end_time) WHERE end_time IS NOT NULL;
CREATE INDEX jobs_dead ON jobs (key) WHERE dead_letter = 1;

CREATE TABLE job_labels (
  job_key INTEGER NOT NULL REFERENCES jobs (key) ON DELETE CASCADE,
  label TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (job_key, label)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_reports (
  job_key INTEGER PRIMARY KEY REFERENCES jobs (key) ON DELETE CASCADE,
  report BLOB NOT NULL
) STRICT;

CREATE TABLE job_events (
  job_key INTEGER NOT NULL REFERENCES jobs (key) ON DELETE CASCADE,
  sequence INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  event BLOB NOT NULL,
  PRIMARY KEY (job_key, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_events_by_kind ON job_events (job_key, kind, sequence);

CREATE TABLE requests (
  project TEXT NOT NULL,
  request_id TEXT NOT NULL,
  digest TEXT NOT NULL,
  job_uid TEXT NOT NULL,
  time INTEGER NOT NULL,
  PRIMARY KEY (project, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_by_time ON requests (time);

CREATE TABLE workers (
  worker_id TEXT PRIMARY KEY,
  boot_id TEXT NOT NULL,
  session TEXT NOT NULL,
  capabilities BLOB NOT NULL,
  seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
)sql",
                                                         R"sql(
-- Jobs by state, for each scrape of the metrics: count(*) goes through all of them.
CREATE TABLE job_counts (state INTEGER PRIMARY KEY, jobs INTEGER NOT NULL) STRICT;
INSERT INTO job_counts SELECT state, count(*) FROM jobs GROUP BY state;
CREATE TRIGGER jobs_count_inserted AFTER INSERT ON jobs BEGIN
  INSERT INTO job_counts VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_count_deleted AFTER DELETE ON jobs BEGIN
  UPDATE job_counts SET jobs = jobs - 1 WHERE state = old.state;
END;
CREATE TRIGGER jobs_count_moved AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
  UPDATE job_counts SET jobs = jobs - 1 WHERE state = old.state;
  INSERT INTO job_counts VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET jobs = jobs + 1;
END;
)sql",
                                                         R"sql(
-- A page of a project's jobs, in order, also of one state; for each CreateJob its waiting jobs.
-- Without these each goes through all that the project ever had.
CREATE INDEX jobs_by_project ON jobs (project, key);
CREATE INDEX jobs_by_project_state ON jobs (project, state, key);
)sql"};

absl::Status NotOurs(const std::filesystem::path& file) {
  return Error(absl::StatusCode::kFailedPrecondition, "NOT_OUR_DATABASE",
               fmt::format("{}: a database of another program; choose another data directory or "
                           "move this file away",
                           file.string()));
}

absl::StatusOr<int64_t> SchemaVersion(Database& database, const std::filesystem::path& file) {
  TEQ_ASSIGN_OR_RETURN(const int64_t application, database.QueryInt("PRAGMA application_id"));
  if (application == kApplicationId) {
    return database.QueryInt("SELECT coalesce(max(version), 0) FROM schema_migrations");
  }
  TEQ_ASSIGN_OR_RETURN(const int64_t objects,
                       database.QueryInt("SELECT count(*) FROM sqlite_master"));
  if (application != 0 || objects != 0) return NotOurs(file);
  return 0;
}

std::string InTransaction(int64_t version, std::string_view sql) {
  std::string begin = "BEGIN IMMEDIATE;";
  if (version == 1) {
    begin += fmt::format(
        "PRAGMA application_id = {};"
        "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, time TEXT NOT NULL) STRICT;",
        kApplicationId);
  }
  return fmt::format(
      "{}{}INSERT INTO schema_migrations VALUES ({}, strftime('%Y-%m-%dT%H:%M:%SZ', "
      "'now'));COMMIT;",
      begin, sql, version);
}

}  // namespace

std::span<const std::string_view> Migrations() { return kMigrations; }

absl::Status Migrate(Database& database, const std::filesystem::path& file) {
  TEQ_ASSIGN_OR_RETURN(const int64_t version, SchemaVersion(database, file));
  const auto newest = static_cast<int64_t>(Migrations().size());
  if (version > newest) {
    return Error(absl::StatusCode::kFailedPrecondition, "DATABASE_TOO_NEW",
                 fmt::format("{}: schema version {} was made by a newer teq-server; this one knows "
                             "{} at most: run the newer server, or restore a backup",
                             file.string(), version, newest));
  }
  for (int64_t next = version + 1; next <= newest; ++next) {
    TEQ_RETURN_IF_ERROR(
        database.Execute(InTransaction(next, Migrations()[static_cast<size_t>(next - 1)])));
  }
  return absl::OkStatus();
}

}  // namespace teq::store
