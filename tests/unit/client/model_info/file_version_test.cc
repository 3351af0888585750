#include "client/model_info/file_version.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <string>

#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using testing::HasSubstr;

class FileVersionTest : public testing::Test {
 protected:
  FileVersionTest() { std::filesystem::create_directories(directory_); }
  ~FileVersionTest() override { std::filesystem::remove_all(directory_); }

  /// Writes the file in place, at a time of its own.
  void Write(const std::string& text, std::time_t seconds, std::int64_t nanoseconds) const {
    std::ofstream(file_) << text;
    const timespec time{.tv_sec = seconds, .tv_nsec = nanoseconds};
    const timespec times[] = {time, time};
    ASSERT_EQ(::utimensat(AT_FDCWD, file_.c_str(), times, 0), 0);
  }
  static std::string Message(const absl::Status& status) { return std::string(status.message()); }

  const std::filesystem::path directory_ =
      testing::TempDir() + "teq-version-" + std::to_string(getpid());
  const std::filesystem::path file_ = directory_ / "tokenizer.json";
};

// 1,000,000,000 seconds after 1970 began it was 01:46:40 on 9 September 2001.
constexpr std::time_t kBillion = 1'000'000'000;

TEST_F(FileVersionTest, AFileThatNobodyWroteToIsTheSame) {
  Write("one", kBillion, 5);
  const auto before = VersionOf(file_);
  ASSERT_TRUE(before.has_value());
  EXPECT_EQ(before->bytes, 3U);
  EXPECT_EQ(before->modified_ns, 1'000'000'000'000'000'005);
  std::filesystem::permissions(file_, std::filesystem::perms::owner_read);
  EXPECT_TRUE(CheckVersion(file_, before, VersionOf(file_)).ok());
  EXPECT_TRUE(CheckVersion(file_, std::nullopt, std::nullopt).ok());
}

TEST_F(FileVersionTest, AnotherSizeIsToldWithBoth) {
  Write("one", kBillion, 5);
  const auto before = VersionOf(file_);
  Write("three", kBillion, 5);
  const absl::Status status = CheckVersion(file_, before, VersionOf(file_));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "OBJECT_CHANGED");
  EXPECT_THAT(Message(status), HasSubstr(file_.string() + ": has 5 bytes, and had 3 when"));
  EXPECT_THAT(Message(status), HasSubstr("submit the job again"));
}

TEST_F(FileVersionTest, AnotherTimeIsToldWithBothToTheNanosecond) {
  Write("one", kBillion, 5);
  const auto before = VersionOf(file_);
  Write("two", kBillion, 6);
  EXPECT_THAT(Message(CheckVersion(file_, before, VersionOf(file_))),
              HasSubstr("was last written at 2001-09-09T01:46:40.000000006Z, and before the run "
                        "began at 2001-09-09T01:46:40.000000005Z"));
}

TEST_F(FileVersionTest, AFileThatGoesOrComesIsAnother) {
  Write("one", kBillion, 5);
  const auto there = VersionOf(file_);
  std::filesystem::remove(file_);
  EXPECT_THAT(Message(CheckVersion(file_, there, VersionOf(file_))), HasSubstr("is gone"));
  EXPECT_THAT(Message(CheckVersion(file_, VersionOf(file_), there)),
              HasSubstr("was not there when the run began"));
}

TEST_F(FileVersionTest, AnOpenFileIsFollowedAndNotItsName) {
  Write("one", kBillion, 5);
  const int descriptor = ::open(file_.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  const auto before = VersionOf(descriptor);
  std::filesystem::remove(file_);
  Write("three", kBillion, 5);
  EXPECT_EQ(VersionOf(descriptor), before);
  EXPECT_NE(VersionOf(file_), before);
  ::close(descriptor);
  EXPECT_FALSE(VersionOf(-1).has_value());
}

}  // namespace
}  // namespace teq::model_info
