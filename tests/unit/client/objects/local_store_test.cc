#include "client/objects/local_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "client/objects/file.h"
#include "client/objects/temporary_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LocalStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-store-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = fs::canonical(pattern);
    root_ = directory_ / "root";
    store_ = OpenLocalStore(root_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  // The sha256 of "weights", by sha256sum.
  static constexpr const char* kSha256 =
      "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

  fs::path Source() const {
    const fs::path file = directory_ / "source";
    EXPECT_TRUE(WriteFileAtomically(file, "weights").ok());
    return file;
  }

  std::vector<std::string> Keys(const std::string& prefix) const {
    std::vector<std::string> keys;
    const auto listed = store_->List(prefix);
    EXPECT_TRUE(listed.ok()) << listed.status();
    for (const ObjectInfo& object : *listed) keys.push_back(object.key);
    return keys;
  }

  // Whatever lies below the root, temporary files too.
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(root_)) {
      if (!entry.is_directory()) files.push_back(fs::relative(entry.path(), root_));
    }
    return files;
  }

  fs::path directory_;
  fs::path root_;
  std::shared_ptr<ObjectStore> store_;
};

TEST_F(LocalStoreTest, WrittenObjectIsReadBackWholeAndInParts) {
  ASSERT_TRUE(store_->Write("gptq/config.json", "0123456789", IfExists::kReplace).ok());
  EXPECT_EQ(ReadFile(root_ / "gptq/config.json").value(), "0123456789");
  EXPECT_EQ(store_->Head("gptq/config.json")->bytes, 10);
  EXPECT_EQ(store_->Read("gptq/config.json", 0, 10).value(), "0123456789");
  EXPECT_EQ(store_->Read("gptq/config.json", 3, 4).value(), "3456");
  EXPECT_EQ(store_->Read("gptq/config.json", 10, 0).value(), "");
  EXPECT_EQ(store_->Uri("gptq/a b"), "file://" + root_.string() + "/gptq/a%20b");
}

TEST_F(LocalStoreTest, RangeBeyondTheEndIsAnErrorAndNotFewerBytes) {
  ASSERT_TRUE(store_->Write("k", "0123", IfExists::kReplace).ok());
  EXPECT_EQ(ErrorReason(store_->Read("k", 2, 3).status()), "RANGE_BEYOND_END");
  EXPECT_EQ(ErrorReason(store_->Read("k", 5, 0).status()), "RANGE_BEYOND_END");
  EXPECT_EQ(ErrorReason(store_->Read("k", 1, ~std::uint64_t{0}).status()), "RANGE_BEYOND_END");
}

TEST_F(LocalStoreTest, ExistingKeyIsReplacedOnlyWhereThatIsAsked) {
  ASSERT_TRUE(store_->Write("k", "old", IfExists::kFail).ok());
  const absl::Status taken = store_->Write("k", "new", IfExists::kFail);
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ErrorReason(taken), "OBJECT_EXISTS");
  EXPECT_THAT(std::string(taken.message()), HasSubstr((root_ / "k").string()));
  EXPECT_EQ(store_->Read("k", 0, 3).value(), "old");
  ASSERT_TRUE(store_->Write("k", "newer", IfExists::kReplace).ok());
  EXPECT_EQ(store_->Read("k", 0, 5).value(), "newer");
  EXPECT_THAT(Files(), ElementsAre("k"));
}

TEST_F(LocalStoreTest, OneOfManyWritersOfAKeyWins) {
  constexpr int kWriters = 8;
  std::atomic<int> won = 0;
  std::atomic<int> lost = 0;
  std::vector<std::thread> writers;
  for (int i = 0; i < kWriters; ++i) {
    writers.emplace_back([&, i] {
      const absl::Status status = store_->Write("a/b/k", std::to_string(i), IfExists::kFail);
      (status.ok() ? won : lost) += 1;
      EXPECT_TRUE(status.ok() || ErrorReason(status) == "OBJECT_EXISTS") << status;
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(won, 1);
  EXPECT_EQ(lost, kWriters - 1);
  EXPECT_THAT(Files(), ElementsAre("a/b/k"));
}

TEST_F(LocalStoreTest, MissingObjectIsNotFoundAndNamed) {
  const absl::Status status = store_->Head("none/k").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(status), "FILE_NOT_FOUND");
  EXPECT_THAT(std::string(status.message()), HasSubstr(root_.string()));
  fs::create_directories(root_ / "directory");
  EXPECT_EQ(ErrorReason(store_->Head("directory").status()), "FILE_NOT_FOUND");
  ASSERT_EQ(::mkfifo((root_ / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(ErrorReason(store_->Head("pipe").status()), "FILE_NOT_FOUND");
}

TEST_F(LocalStoreTest, ListIsInKeyOrderAndByPrefixOfTheKey) {
  for (const char* key : {"b", "a/x", "a.txt", "a/y/z", "ab", "a/Ä"}) {
    ASSERT_TRUE(store_->Write(key, key, IfExists::kFail).ok());
  }
  EXPECT_THAT(Keys(""), ElementsAre("a.txt", "a/x", "a/y/z", "a/Ä", "ab", "b"));
  EXPECT_THAT(Keys("a"), ElementsAre("a.txt", "a/x", "a/y/z", "a/Ä", "ab"));
  EXPECT_THAT(Keys("a/"), ElementsAre("a/x", "a/y/z", "a/Ä"));
  EXPECT_THAT(Keys("a/y/z"), ElementsAre("a/y/z"));
  EXPECT_THAT(Keys("none/"), IsEmpty());
  EXPECT_EQ(store_->List("a/x")->at(0).bytes, 3);
  EXPECT_EQ(store_->List("a/x")->at(0).etag, store_->Head("a/x")->etag);
}

TEST_F(LocalStoreTest, DirectoryThatIsNotThereHoldsNothing) { EXPECT_THAT(Keys(""), IsEmpty()); }

TEST_F(LocalStoreTest, SymbolicLinksBelowTheRootAreNotFollowed) {
  fs::create_directories(root_);
  fs::create_directories(directory_ / "outside");
  ASSERT_TRUE(WriteFileAtomically(directory_ / "outside/secret", "s").ok());
  fs::create_directory_symlink(directory_ / "outside", root_ / "link");
  fs::create_symlink(directory_ / "outside/secret", root_ / "file");
  for (const char* key : {"link/secret", "file"}) {
    EXPECT_EQ(ErrorReason(store_->Head(key).status()), "SYMBOLIC_LINK") << key;
    EXPECT_EQ(ErrorReason(store_->Read(key, 0, 1).status()), "SYMBOLIC_LINK") << key;
  }
  EXPECT_EQ(ErrorReason(store_->Write("link/new", "x", IfExists::kReplace)), "SYMBOLIC_LINK");
  EXPECT_EQ(ErrorReason(store_->Remove("link/secret")), "SYMBOLIC_LINK");
  EXPECT_THAT(Keys(""), IsEmpty());
  // The link itself is replaced, not what it leads to.
  ASSERT_TRUE(store_->Write("file", "x", IfExists::kReplace).ok());
  EXPECT_EQ(ReadFile(directory_ / "outside/secret").value(), "s");
  EXPECT_FALSE(fs::exists(directory_ / "outside/new"));
}

TEST_F(LocalStoreTest, RootMayBeReachedByALink) {
  fs::create_directories(root_);
  fs::create_directory_symlink(root_, directory_ / "alias");
  ASSERT_TRUE(OpenLocalStore(directory_ / "alias")->Write("k", "x", IfExists::kFail).ok());
  EXPECT_EQ(ReadFile(root_ / "k").value(), "x");
}

TEST_F(LocalStoreTest, ReplacedFileIsAnotherObject) {
  ASSERT_TRUE(store_->Write("k", "old", IfExists::kFail).ok());
  const ObjectInfo old = store_->Head("k").value();
  EXPECT_EQ(store_->Read("k", 0, 3, old.etag).value(), "old");
  ASSERT_TRUE(store_->Write("k", "new", IfExists::kReplace).ok());
  EXPECT_EQ(ErrorReason(store_->Read("k", 0, 3, old.etag).status()), "OBJECT_CHANGED");
  EXPECT_EQ(ErrorReason(store_->Download(old, directory_ / "copy")), "OBJECT_CHANGED");
  EXPECT_FALSE(fs::exists(directory_ / "copy"));
}

TEST_F(LocalStoreTest, UploadAndDownloadCarryTheBytesAndTellProgress) {
  std::vector<std::uint64_t> told;
  const TransferProgress progress = [&](std::uint64_t done, std::uint64_t total) {
    told.push_back(done);
    told.push_back(total);
    return true;
  };
  ASSERT_TRUE(store_->Upload("a/w", Source(), kSha256, progress).ok());
  EXPECT_THAT(told, ElementsAre(7, 7));
  ASSERT_TRUE(store_->Download(*store_->Head("a/w"), directory_ / "copy", progress).ok());
  EXPECT_EQ(ReadFile(directory_ / "copy").value(), "weights");
  EXPECT_THAT(told, ElementsAre(7, 7, 7, 7));
}

TEST_F(LocalStoreTest, UploadOfOtherBytesThanSummedLeavesNothing) {
  const absl::Status status = store_->Upload("w", Source(), std::string(64, '0'));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ErrorReason(status), "OBJECT_CORRUPT");
  EXPECT_THAT(std::string(status.message()), HasSubstr(kSha256));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(LocalStoreTest, StoppedTransferLeavesNothing) {
  const TransferProgress stop = [](std::uint64_t, std::uint64_t) { return false; };
  EXPECT_EQ(store_->Upload("w", Source(), kSha256, stop).code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(LocalStoreTest, RemovedObjectIsGoneAndRemovingNothingIsFine) {
  ASSERT_TRUE(store_->Write("a/k", "x", IfExists::kFail).ok());
  EXPECT_TRUE(store_->Remove("a/k").ok());
  EXPECT_FALSE(store_->Head("a/k").ok());
  EXPECT_TRUE(store_->Remove("a/k").ok());
  EXPECT_TRUE(store_->Remove("none/k").ok());
}

// A file that a dead process left has no lock; one that is being written has.
TEST_F(LocalStoreTest, AbortingRemovesWhatTheDeadLeftAndNothingElse) {
  ASSERT_TRUE(store_->Write("a/k", "x", IfExists::kFail).ok());
  ASSERT_TRUE(WriteFileAtomically(root_ / "a/model.bin.0123abcd.tmp", "half").ok());
  ASSERT_TRUE(WriteFileAtomically(root_ / "model.bin.0123abcd.tmp", "half").ok());
  const auto alive = TemporaryFile::Beside(root_ / "a/model.bin");
  ASSERT_TRUE(alive.ok());
  EXPECT_THAT(Keys(""), ElementsAre("a/k"));
  ASSERT_TRUE(store_->AbortUploads("a/").ok());
  EXPECT_EQ(Files().size(), 3);
  EXPECT_FALSE(fs::exists(root_ / "a/model.bin.0123abcd.tmp"));
  EXPECT_TRUE(fs::exists(root_ / "model.bin.0123abcd.tmp"));
}

TEST_F(LocalStoreTest, DirectoriesHaveNoUrls) {
  EXPECT_EQ(ErrorReason(store_->PresignedUrl("k", absl::Hours(1)).status()), "NOT_PRESIGNABLE");
}

TEST_F(LocalStoreTest, KeysThatLeadElsewhereAreRefused) {
  for (const char* key :
       {"", "/etc/passwd", "..", "a/../../b", "a//b", "a/", "./a", "a\nb", "\xff"}) {
    EXPECT_EQ(ErrorReason(store_->Head(key).status()), "INVALID_KEY") << key;
    EXPECT_EQ(ErrorReason(store_->Write(key, "x", IfExists::kReplace)), "INVALID_KEY") << key;
    EXPECT_EQ(ErrorReason(store_->Remove(key)), "INVALID_KEY") << key;
  }
  EXPECT_EQ(ErrorReason(store_->Head(std::string(1025, 'k')).status()), "INVALID_KEY");
}

TEST(OpenStoreTest, FileUriOpensItsDirectoryUnderThePolicy) {
  const auto store = OpenStore("file:///nowhere/at%20all", {});
  ASSERT_TRUE(store.ok());
  EXPECT_EQ((*store)->Uri("k"), "file:///nowhere/at%20all/k");
  EXPECT_EQ(ErrorReason(OpenStore("file:///etc", {{"file:///data"}}).status()), "URI_NOT_ALLOWED");
  EXPECT_EQ(ErrorReason(OpenStore("hf://owner", {}).status()), "INVALID_URI");
}

}  // namespace
}  // namespace teq::objects
