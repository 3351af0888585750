#include "worker/engine/pipeline/weights_digest.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "client/objects/file.h"
#include "proto/spec/error.h"

namespace teq::pipeline {
namespace {

class WeightsDigestTest : public testing::Test {
 protected:
  WeightsDigestTest() : directory_(testing::TempDir() + "teq-digest-" + std::to_string(getpid())) {
    std::filesystem::create_directories(directory_);
    for (const char* name : {"a.safetensors", "b.safetensors"}) {
      const std::filesystem::path file = directory_ / name;
      std::ofstream(file) << std::string(3'000'000, name[0]) << "end";
      index_.files.push_back(file);
    }
  }
  ~WeightsDigestTest() override { std::filesystem::remove_all(directory_); }

  std::string Expected() const {
    std::string lines;
    for (const std::filesystem::path& file : index_.files) {
      lines += objects::FileSha256(file).value() + " " + file.filename().string() + "\n";
    }
    return objects::Sha256(lines);
  }

  model_info::TensorInfo Tensor(std::size_t file, std::uint64_t offset, std::uint64_t bytes) const {
    model_info::TensorInfo info;
    info.file = index_.files[file];
    info.offset = offset;
    info.bytes = bytes;
    return info;
  }

  std::filesystem::path directory_;
  model_info::CheckpointIndex index_;
};

TEST_F(WeightsDigestTest, IsTheSameInWhateverOrderTensorsAreRead) {
  WeightsDigest untouched = WeightsDigest::Open(index_).value();
  EXPECT_EQ(untouched.Finish(index_).value(), Expected());
  WeightsDigest followed = WeightsDigest::Open(index_).value();
  for (const auto& info : {Tensor(0, 8, 1'500'000), Tensor(1, 2'000'000, 1000), Tensor(0, 100, 50),
                           Tensor(0, 2'999'000, 1003), Tensor(0, 8, 10)}) {
    ASSERT_TRUE(followed.Follow(info).ok());
  }
  EXPECT_TRUE(followed.CheckUnchanged().ok());
  EXPECT_EQ(followed.Finish(index_).value(), Expected());
}

TEST_F(WeightsDigestTest, AFileThatEndsTooEarlyIsNamed) {
  WeightsDigest digest = WeightsDigest::Open(index_).value();
  const absl::Status status = digest.Follow(Tensor(0, 2'999'999, 100));
  EXPECT_EQ(ErrorReason(status), "READ_FAILED");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("a.safetensors"));
}

TEST_F(WeightsDigestTest, AFileThatBecameShorterWasChanged) {
  WeightsDigest digest = WeightsDigest::Open(index_).value();
  std::filesystem::resize_file(index_.files[1], 1'000'000);
  for (const absl::Status& status :
       {digest.Follow(Tensor(1, 2'000'000, 1000)), digest.CheckUnchanged()}) {
    EXPECT_EQ(ErrorReason(status), "OBJECT_CHANGED");
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr("b.safetensors: has 1000000 bytes, and had 3000003"));
  }
}

TEST_F(WeightsDigestTest, AFileThatWasWrittenOverInPlaceWasChanged) {
  const WeightsDigest digest = WeightsDigest::Open(index_).value();
  std::fstream(index_.files[0], std::ios::in | std::ios::out) << "other";
  // However coarse the file system's clock is.
  std::filesystem::last_write_time(
      index_.files[0],
      std::filesystem::last_write_time(index_.files[0]) + std::chrono::milliseconds(20));
  const absl::Status status = digest.CheckUnchanged();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "OBJECT_CHANGED");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("a.safetensors: was last written"));
}

TEST_F(WeightsDigestTest, AnotherFileUnderTheSameNameIsNotHashed) {
  const std::string expected = Expected();
  WeightsDigest digest = WeightsDigest::Open(index_).value();
  ASSERT_TRUE(digest.Follow(Tensor(0, 8, 1'500'000)).ok());
  for (const std::filesystem::path& file : index_.files) {
    std::ofstream(directory_ / "new") << "another model";
    std::filesystem::rename(directory_ / "new", file);
  }
  EXPECT_EQ(digest.Finish(index_).value(), expected);
  EXPECT_TRUE(digest.CheckUnchanged().ok());
}

TEST_F(WeightsDigestTest, AFileThatIsGoneCannotBeOpened) {
  std::filesystem::remove(index_.files[1]);
  EXPECT_EQ(ErrorReason(WeightsDigest::Open(index_).status()), "READ_FAILED");
}

}  // namespace
}  // namespace teq::pipeline
