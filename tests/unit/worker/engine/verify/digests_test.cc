#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {
namespace {

using ::testing::HasSubstr;

// From sha256sum.
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

class CheckDigestsTest : public ::testing::Test {
 protected:
  CheckDigestsTest() {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 (::testing::UnitTest::GetInstance()->current_test_info()->name() +
                  std::to_string(getpid()));
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_ / "sub");
    Write("model.safetensors", "abc");
    Write("config.json", "abc");
    Write("sub/empty", "");
  }
  ~CheckDigestsTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(directory_ / name, std::ios::binary) << content;
  }

  void ExpectRejected(const std::string& file, const std::string& message) {
    const absl::Status status = CheckDigests(directory_, recorded_);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << file;
    EXPECT_EQ(ErrorReason(status), "VERIFY_FAILED");
    EXPECT_THAT(std::string(status.message()), HasSubstr(file));
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  std::filesystem::path directory_;
  std::map<std::string, std::string> recorded_ = {
      {"model.safetensors", kAbc}, {"config.json", kAbc}, {"sub/empty", kEmpty}};
};

TEST_F(CheckDigestsTest, FilesAsRecordedPass) {
  EXPECT_TRUE(CheckDigests(directory_, recorded_).ok());
}

TEST_F(CheckDigestsTest, OneFlippedBitInAnyFileIsFound) {
  for (const std::string file : {"model.safetensors", "config.json"}) {
    Write(file, "abb");
    ExpectRejected(file, kAbc);
    Write(file, "abc");
  }
  Write("sub/empty", " ");
  ExpectRejected("sub/empty", kEmpty);
}

TEST_F(CheckDigestsTest, MissingFileIsFound) {
  std::filesystem::remove(directory_ / "config.json");
  ExpectRejected("config.json", "missing");
}

TEST_F(CheckDigestsTest, FileThatNobodyRecordedIsFound) {
  Write("sub/stray", "");
  ExpectRejected("sub/stray", "no digest");
}

TEST_F(CheckDigestsTest, SymbolicLinkIsRefused) {
  std::filesystem::create_symlink("config.json", directory_ / "link");
  ExpectRejected("link", "no regular file");
}

TEST_F(CheckDigestsTest, DirectoryThatIsNotThereIsNamed) {
  std::filesystem::remove_all(directory_);
  ExpectRejected(directory_.filename().string(), "cannot be listed");
}

}  // namespace
}  // namespace teq::verify
