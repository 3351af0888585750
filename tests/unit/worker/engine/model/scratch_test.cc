#include "worker/engine/model/scratch.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::model {
namespace {

using torch::Tensor;

class ScratchTest : public testing::Test {
 protected:
  ScratchTest() : directory_(testing::TempDir() + "teq-scratch-" + std::to_string(getpid())) {}
  ~ScratchTest() override { std::filesystem::remove_all(directory_); }

  /// Files of the directory that are mapped, by /proc/self/maps.
  int MappedFiles() const {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) {
      if (line.find(directory_.string() + "/scratch-") != std::string::npos) ++count;
    }
    return count;
  }

  /// Of the directory's files that are open.
  std::int64_t BytesOnDisk() const {
    constexpr std::int64_t kBlock = 512;  // of st_blocks, by POSIX
    std::int64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const std::string file = std::filesystem::read_symlink(entry.path(), gone);
      struct stat info {};
      if (file.starts_with(directory_.string()) && ::stat(entry.path().c_str(), &info) == 0) {
        bytes += info.st_blocks * kBlock;
      }
    }
    return bytes;
  }

  std::filesystem::path directory_;
};

TEST_F(ScratchTest, BeyondTheBudgetTensorsLieInFilesWithoutAName) {
  Scratch scratch(directory_, 1000);
  const Tensor held = scratch.Zeros({10, 10}, torch::kFloat32).value();
  EXPECT_FALSE(std::filesystem::exists(directory_));
  Tensor filed = scratch.Zeros({10, 100}, torch::kUInt8).value();
  EXPECT_EQ(MappedFiles(), 1);
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
  EXPECT_EQ(filed.sum().item<std::int64_t>(), 0);
  EXPECT_EQ(held.sum().item<float>(), 0);
}

TEST_F(ScratchTest, FilesGoWithTheirTensors) {
  Tensor large;
  Tensor small;
  {
    Scratch scratch(directory_, 0);
    large = scratch.Zeros({40 << 20}, torch::kUInt8).value();
    EXPECT_EQ(MappedFiles(), 1);
    small = scratch.Zeros({1000}, torch::kUInt8).value();
    EXPECT_EQ(MappedFiles(), 2);
    large = Tensor();
    EXPECT_EQ(MappedFiles(), 1);
  }
  small = Tensor();
  EXPECT_EQ(MappedFiles(), 0);
}

// A process may have 65,530 mappings, by Linux's vm.max_map_count.
TEST_F(ScratchTest, TensorsMayBeMoreThanAProcessMayHaveMappings) {
  Scratch scratch(directory_, 0);
  std::vector<Tensor> tensors;
  constexpr int kTensors = 70'000;
  tensors.reserve(kTensors);
  for (int i = 0; i < kTensors; ++i) {
    tensors.push_back(scratch.Zeros({1}, torch::kInt32).value());
  }
  EXPECT_LT(MappedFiles(), 10);
  tensors.front().fill_(1);
  EXPECT_EQ(tensors[1].item<std::int32_t>(), 0);
}

TEST_F(ScratchTest, ATensorThatGoesGivesItsBlocksOfASharedFileBack) {
  Scratch scratch(directory_, 0);
  const Tensor stays = scratch.Zeros({1}, torch::kUInt8).value();
  Tensor goes = scratch.Zeros({32 << 20}, torch::kUInt8).value();
  EXPECT_GE(BytesOnDisk(), 32 << 20);
  goes = Tensor();
  EXPECT_LT(BytesOnDisk(), 1 << 20);
}

TEST_F(ScratchTest, ATensorThatGoesGivesItsMemoryToTheNext) {
  Scratch scratch(directory_, 1000);
  for (int i = 0; i < 3; ++i) {
    const Tensor tensor = scratch.Zeros({1000}, torch::kUInt8).value();
    EXPECT_EQ(MappedFiles(), 0);
  }
}

TEST_F(ScratchTest, ValuesOutliveTheirPagesAndTheScratch) {
  const Tensor original = torch::randn({300, 70});
  Tensor kept;
  {
    Scratch scratch(directory_, 0);
    kept = scratch.Keep(original.t()).value();
    kept.mul_(2);
    scratch.Release(kept);
    // What lies elsewhere is left alone.
    scratch.Release(original);
    scratch.Release(Tensor());
  }
  EXPECT_TRUE(torch::equal(kept, original.t() * 2));
}

TEST_F(ScratchTest, AFullDiskIsAnErrorAndNotASignal) {
  Scratch scratch(directory_, 0);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{1 << 16, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const auto tensor = scratch.Zeros({1 << 20}, torch::kUInt8);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(tensor.ok());
  EXPECT_EQ(ErrorReason(tensor.status()), "DISK_FULL");
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

}  // namespace
}  // namespace teq::model
