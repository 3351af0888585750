#include "client/objects/file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-file-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path directory_;
};

TEST_F(FileTest, ReadsBackWhatWasWrittenAndLeavesNoTemporaryFile) {
  const std::string content("a\0b\n", 4);
  ASSERT_TRUE(WriteFileAtomically(directory_ / "f", content).ok());
  ASSERT_TRUE(WriteFileAtomically(directory_ / "f", content + "second").ok());
  EXPECT_EQ(ReadFile(directory_ / "f").value(), content + "second");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), fs::directory_iterator()), 1);
}

// From FIPS 180-2: the digests of "abc" and of the empty text.
TEST_F(FileTest, DigestsAreThoseOfTheStandard) {
  const std::string abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  ASSERT_TRUE(WriteFileAtomically(directory_ / "f", "abc").ok());
  EXPECT_EQ(FileSha256(directory_ / "f").value(), abc);
  EXPECT_EQ(Sha256("abc"), abc);
  EXPECT_EQ(Sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_F(FileTest, MissingFileIsNotFoundAndNamed) {
  const absl::Status status = ReadFile(directory_ / "none").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(status), "FILE_NOT_FOUND");
  EXPECT_THAT(std::string(status.message()), HasSubstr((directory_ / "none").string()));
}

TEST_F(FileTest, DirectoryCannotBeReadAsAFile) {
  EXPECT_EQ(ErrorReason(ReadFile(directory_).status()), "READ_FAILED");
}

TEST_F(FileTest, WriteIntoMissingDirectoryFails) {
  const absl::Status status = WriteFileAtomically(directory_ / "none" / "f", "x");
  EXPECT_EQ(ErrorReason(status), "WRITE_FAILED");
  EXPECT_THAT(std::string(status.message()), HasSubstr((directory_ / "none" / "f").string()));
}

TEST_F(FileTest, SyncDoesNotFollowSymbolicLinks) {
  fs::create_symlink("/etc/hostname", directory_ / "link");
  EXPECT_FALSE(Sync(directory_ / "link").ok());
}

// A limit on the size of files is the full disk that needs no privileges. It is set in a child,
// since it holds for the whole process.
TEST_F(FileTest, FullDiskNamesPathAndBytesAndLeavesNothing) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 4096, .rlim_max = 4096};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(10);
    const absl::Status status =
        WriteFileAtomically(directory_ / "big", std::string(std::size_t{10000}, 'x'));
    if (status.code() != absl::StatusCode::kResourceExhausted) ::_exit(11);
    if (ErrorReason(status) != "DISK_FULL") ::_exit(12);
    const std::string message(status.message());
    if (message.find((directory_ / "big").string()) == std::string::npos) ::_exit(13);
    if (message.find("10000 bytes") == std::string::npos) ::_exit(14);
    ::_exit(0);
  }
  int state = 0;
  ASSERT_EQ(::waitpid(child, &state, 0), child);
  ASSERT_TRUE(WIFEXITED(state));
  EXPECT_EQ(WEXITSTATUS(state), 0);
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(FileTest, EveryKindOfFullIsDiskFull) {
  for (const int number : {ENOSPC, EDQUOT, EFBIG}) {
    EXPECT_EQ(ErrorReason(WriteError(number, "/out/f", 7)), "DISK_FULL") << number;
  }
  EXPECT_EQ(ErrorReason(WriteError(EROFS, "/out/f", 7)), "OUTPUT_NOT_WRITABLE");
  EXPECT_EQ(ErrorReason(WriteError(EIO, "/out/f", 7)), "WRITE_FAILED");
}

}  // namespace
}  // namespace teq::objects
