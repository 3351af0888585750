#include "worker/agent/data_directory.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class DataDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-data-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path root_;
};

TEST_F(DataDirectoryTest, OneThatIsNotThereIsMadeAndLeftEmpty) {
  EXPECT_TRUE(CheckDataDirectory(root_ / "a" / "b").ok());
  EXPECT_TRUE(fs::is_empty(root_ / "a" / "b"));
  EXPECT_TRUE(CheckDataDirectory(root_ / "a" / "b").ok());
}

TEST_F(DataDirectoryTest, FileInItsPlaceIsNamedWithTheRemedy) {
  std::ofstream(root_ / "file") << "x";
  const std::string message(CheckDataDirectory(root_ / "file").message());
  EXPECT_THAT(message, HasSubstr("--data"));
  EXPECT_THAT(message, HasSubstr((root_ / "file").string() + ": cannot be written"));
  EXPECT_FALSE(CheckDataDirectory(root_ / "file" / "below").ok());
}

}  // namespace
}  // namespace teq::agent
