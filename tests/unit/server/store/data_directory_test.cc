#include "server/store/data_directory.h"

#include <unistd.h>

#include <optional>

#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/server/harness.h"

namespace teq::store {
namespace {

using ::testing::HasSubstr;

TEST(DataDirectoryTest, IsMadeWhereItIsMissing) {
  const teq::testing::TempDirectory temp;
  const auto directory = DataDirectory::Open(temp.path() / "new" / "data");
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ(directory->DatabaseFile(), temp.path() / "new" / "data" / "teqd.sqlite3");
}

TEST(DataDirectoryTest, SecondServerIsRefusedByDirectoryAndProcess) {
  const teq::testing::TempDirectory temp;
  const auto first = DataDirectory::Open(temp.path());
  ASSERT_TRUE(first.ok());
  const absl::Status status = DataDirectory::Open(temp.path()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(ErrorReason(status), "DATA_DIRECTORY_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(temp.path().string()));
  EXPECT_THAT(std::string(status.message()), HasSubstr(fmt::format("process id {};", ::getpid())));
}

TEST(DataDirectoryTest, IsFreeAgainAfterItsServer) {
  const teq::testing::TempDirectory temp;
  { EXPECT_TRUE(DataDirectory::Open(temp.path()).ok()); }
  EXPECT_TRUE(DataDirectory::Open(temp.path()).ok());
}

TEST(DataDirectoryTest, PathThatIsAFileIsRefused) {
  const absl::Status status = DataDirectory::Open("/dev/null/data").status();
  EXPECT_EQ(ErrorReason(status), "STORE_UNAVAILABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/null/data"));
}

}  // namespace
}  // namespace teq::store
