#include "worker/engine/pipeline/weights_digest.h"

#include <gtest/gtest.h>
#include <unistd.h>

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

  std::filesystem::path directory_;
  model_info::CheckpointIndex index_;
};

TEST_F(WeightsDigestTest, IsTheSameInWhateverOrderTensorsAreRead) {
  WeightsDigest untouched;
  EXPECT_EQ(untouched.Finish(index_).value(), Expected());
  WeightsDigest followed;
  const auto tensor = [&](std::size_t file, std::uint64_t offset, std::uint64_t bytes) {
    model_info::TensorInfo info;
    info.file = index_.files[file];
    info.offset = offset;
    info.bytes = bytes;
    return info;
  };
  for (const auto& info : {tensor(0, 8, 1'500'000), tensor(1, 2'000'000, 1000), tensor(0, 100, 50),
                           tensor(0, 2'999'000, 1003), tensor(0, 8, 10)}) {
    ASSERT_TRUE(followed.Follow(info).ok());
  }
  EXPECT_EQ(followed.Finish(index_).value(), Expected());
}

TEST_F(WeightsDigestTest, AFileThatBecameShorterIsNamed) {
  WeightsDigest digest;
  model_info::TensorInfo info;
  info.file = index_.files[0];
  info.offset = 2'999'999;
  info.bytes = 100;
  const absl::Status status = digest.Follow(info);
  EXPECT_EQ(ErrorReason(status), "READ_FAILED");
  EXPECT_NE(status.message().find("a.safetensors"), std::string::npos);
}

}  // namespace
}  // namespace teq::pipeline
