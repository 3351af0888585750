#include "server/store/migrations.h"

#include <fstream>

#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/server/harness.h"

namespace teq::store {
namespace {

using ::testing::HasSubstr;

class MigrationsTest : public ::testing::Test {
 protected:
  std::unique_ptr<Database> OpenDatabase() { return *Database::Open(file_); }

  std::string Bytes() const {
    std::ifstream stream(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  teq::testing::TempDirectory temp_;
  std::filesystem::path file_ = temp_.path() / "teqd.sqlite3";
};

TEST_F(MigrationsTest, EmptyFileBecomesOurs) {
  ASSERT_TRUE(SqliteStore::Open(file_).ok());
  const auto database = OpenDatabase();
  // "teqd" in ASCII.
  EXPECT_EQ(*database->QueryInt("PRAGMA application_id"), 0x74657164);
  EXPECT_EQ(*database->QueryInt("SELECT max(version) FROM schema_migrations"),
            static_cast<int64_t>(Migrations().size()));
}

TEST_F(MigrationsTest, EachMigrationRunsOnce) {
  ASSERT_TRUE(SqliteStore::Open(file_).ok());
  ASSERT_TRUE(SqliteStore::Open(file_).ok());
  EXPECT_EQ(*OpenDatabase()->QueryInt("SELECT count(*) FROM schema_migrations"),
            static_cast<int64_t>(Migrations().size()));
}

TEST_F(MigrationsTest, WritesGoThroughAWriteAheadLog) {
  const auto store = SqliteStore::Open(file_);
  ASSERT_TRUE(store.ok());
  auto transaction = *(*store)->Begin();
  ASSERT_TRUE(transaction->PutWorker({.worker_id = "w1"}).ok());
  ASSERT_TRUE(transaction->Commit().ok());
  EXPECT_TRUE(std::filesystem::exists(file_.string() + "-wal"));
}

TEST_F(MigrationsTest, DatabaseOfAnotherProgramIsRefusedAndLeftAlone) {
  ASSERT_TRUE(OpenDatabase()->Execute("CREATE TABLE bookmarks (url TEXT)").ok());
  const std::string before = Bytes();
  const absl::Status status = SqliteStore::Open(file_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(ErrorReason(status), "NOT_OUR_DATABASE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(file_.string()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("choose another data directory"));
  EXPECT_EQ(Bytes(), before);
}

TEST_F(MigrationsTest, DatabaseWithAnotherApplicationIdIsRefused) {
  ASSERT_TRUE(OpenDatabase()->Execute("PRAGMA application_id = 252006674").ok());
  EXPECT_EQ(ErrorReason(SqliteStore::Open(file_).status()), "NOT_OUR_DATABASE");
}

TEST_F(MigrationsTest, FileThatIsNoDatabaseIsRefusedAndLeftAlone) {
  const std::string text(5000, 'x');
  std::ofstream(file_) << text;
  const absl::Status status = SqliteStore::Open(file_).status();
  EXPECT_EQ(ErrorReason(status), "NOT_OUR_DATABASE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(file_.string()));
  EXPECT_EQ(Bytes(), text);
}

TEST_F(MigrationsTest, DatabaseOfANewerServerIsRefused) {
  ASSERT_TRUE(SqliteStore::Open(file_).ok());
  ASSERT_TRUE(OpenDatabase()->Execute("INSERT INTO schema_migrations VALUES (99, 'later')").ok());
  const absl::Status status = SqliteStore::Open(file_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(ErrorReason(status), "DATABASE_TOO_NEW");
  EXPECT_THAT(std::string(status.message()), HasSubstr("schema version 99"));
}

TEST_F(MigrationsTest, DirectoryInPlaceOfTheFileIsRefused) {
  std::filesystem::create_directory(file_);
  const absl::Status status = SqliteStore::Open(file_).status();
  EXPECT_EQ(ErrorReason(status), "STORE_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(file_.string()));
}

}  // namespace
}  // namespace teq::store
