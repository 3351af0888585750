#include "server/store/backup.h"

#include <fstream>

#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "server/store/sqlite.h"
#include "tests/unit/server/harness.h"

namespace teq::store {
namespace {

using ::testing::HasSubstr;

class BackupTest : public teq::testing::QueueTest {
 protected:
  [[nodiscard]] std::filesystem::path Source() const { return directory_.path() / "teqd.sqlite3"; }
  [[nodiscard]] std::filesystem::path Target() const { return target_.path() / "copy.sqlite3"; }

  teq::testing::TempDirectory target_;
};

TEST_F(BackupTest, HoldsWhatWasCommittedWhileTheServerGoesOn) {
  auto request = teq::testing::NewJob("a");
  request.set_job_id("a");
  Create(request);
  ASSERT_TRUE(BackUp(Source(), Target()).ok());
  request = teq::testing::NewJob("b");
  request.set_job_id("b");
  Create(request);
  auto copy = SqliteStore::Open(Target());
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_TRUE((*copy)->Get({"p", "a"})->has_value());
  EXPECT_FALSE((*copy)->Get({"p", "b"})->has_value());
}

TEST_F(BackupTest, NeedsNoPauseInWriting) {
  const auto transaction = *store_->Begin();
  ASSERT_TRUE(BackUp(Source(), Target()).ok());
  EXPECT_TRUE(std::filesystem::exists(Target()));
}

TEST_F(BackupTest, NeverReplacesAFile) {
  std::ofstream(Target()) << "precious";
  const absl::Status status = BackUp(Source(), Target());
  EXPECT_EQ(ErrorReason(status), "BACKUP_EXISTS");
  EXPECT_THAT(std::string(status.message()), HasSubstr(Target().string()));
  EXPECT_EQ(std::filesystem::file_size(Target()), 8);
}

TEST_F(BackupTest, MissingDatabaseIsNamedAndNotMade) {
  const std::filesystem::path none = target_.path() / "none.sqlite3";
  const absl::Status status = BackUp(none, Target());
  EXPECT_EQ(ErrorReason(status), "DATABASE_NOT_FOUND");
  EXPECT_FALSE(std::filesystem::exists(none));
}

TEST_F(BackupTest, DatabaseOfAnotherProgramIsRefused) {
  const std::filesystem::path other = target_.path() / "other.sqlite3";
  ASSERT_TRUE((*Database::Open(other))->Execute("CREATE TABLE cake (name TEXT)").ok());
  EXPECT_EQ(ErrorReason(BackUp(other, Target())), "NOT_OUR_DATABASE");
  EXPECT_FALSE(std::filesystem::exists(Target()));
}

TEST_F(BackupTest, TargetThatCannotBeWrittenLeavesNothing) {
  const absl::Status status = BackUp(Source(), target_.path() / "none" / "copy.sqlite3");
  EXPECT_EQ(ErrorReason(status), "STORE_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("none/copy.sqlite3.partial: cannot be written"), HasSubstr("--to")));
  EXPECT_TRUE(std::filesystem::is_empty(target_.path()));
}

}  // namespace
}  // namespace teq::store
