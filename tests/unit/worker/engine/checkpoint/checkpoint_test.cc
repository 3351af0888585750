#include "worker/engine/checkpoint/checkpoint.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "torch/torch.h"

namespace teq::checkpoint {
namespace {

using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest()
      : directory_(std::filesystem::path(::testing::TempDir()) /
                   fmt::format("{}-{}",
                               ::testing::UnitTest::GetInstance()->current_test_info()->name(),
                               getpid())) {
    std::filesystem::create_directories(directory_);
  }
  ~CheckpointTest() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] std::filesystem::path File() const { return directory_ / "model.safetensors"; }

  void WriteFile(std::string_view header, std::string_view data) const {
    const std::uint64_t length = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    std::ofstream(File(), std::ios::binary) << bytes << header << data;
  }

  std::filesystem::path directory_;
};

TEST_F(CheckpointTest, ReadsStoredBytesAsTheirType) {
  // 1.5 and -2 in float16 are 0x3e00 and 0xc000; 1.5 in bfloat16 is 0x3fc0.
  WriteFile(R"({"h":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},)"
            R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]}} )",
            std::string_view("\x00\x3e\x00\xc0\xc0\x3f", 6));
  const auto checkpoint = Checkpoint::Open(directory_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->Has("h"));
  EXPECT_FALSE(checkpoint->Has("x"));
  const auto h = checkpoint->Read("h");
  ASSERT_TRUE(h.ok()) << h.status();
  EXPECT_EQ(h->scalar_type(), torch::kFloat16);
  EXPECT_EQ(h->sizes(), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ((*h)[0][0].item<float>(), 1.5F);
  EXPECT_EQ((*h)[0][1].item<float>(), -2.0F);
  const auto b = checkpoint->Read("b");
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(b->scalar_type(), torch::kBFloat16);
  EXPECT_EQ((*b)[0].item<float>(), 1.5F);
}

/// Puts the bytes of the whole file into a file of zeros, those of a range when they are asked for.
class ArrivingFile final : public model_info::FileSource {
 public:
  explicit ArrivingFile(std::string content) : content_(std::move(content)) {}

  absl::Status EnsureRange(const std::filesystem::path& file, std::uint64_t offset,
                           std::uint64_t length) override {
    if (offset + length > content_.size()) return absl::UnavailableError("gone");
    std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream << content_.substr(offset, length);
    arrived += length;
    return absl::OkStatus();
  }

  std::uint64_t arrived = 0;

 private:
  std::string content_;
};

TEST_F(CheckpointTest, BytesOfATensorAreAskedForWhenItIsReadAndNoOthers) {
  WriteFile(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},)"
            R"("b":{"dtype":"I8","shape":[1000],"data_offsets":[4,1004]}} )",
            std::string("\x01\x02\x03\x04") + std::string(1000, '\x05'));
  std::ifstream stream(File(), std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(stream), {}};
  std::ofstream(File(), std::ios::binary) << std::string(content.size(), '\0');
  const auto source = std::make_shared<ArrivingFile>(content);
  const auto checkpoint = Checkpoint::Open(directory_, source);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::uint64_t header = content.size() - 1004;
  EXPECT_EQ(source->arrived, header);
  const auto a = checkpoint->Read("a");
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ((*a)[3].item<int>(), 4);
  EXPECT_EQ(source->arrived, header + 4);
  EXPECT_EQ((*checkpoint->Read("b"))[999].item<int>(), 5);
}

TEST_F(CheckpointTest, BytesThatDoNotComeAreAnError) {
  WriteFile(R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}})", "abcd");
  std::ifstream stream(File(), std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(stream), {}};
  content.pop_back();
  const auto checkpoint = Checkpoint::Open(directory_, std::make_shared<ArrivingFile>(content));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(absl::IsUnavailable(checkpoint->Read("a").status()));
}

TEST_F(CheckpointTest, TensorOutlivesItsCheckpoint) {
  torch::Tensor tensor;
  {
    ASSERT_TRUE(WriteSafetensors(File(), {{"w", torch::arange(1000, torch::kFloat32)}}).ok());
    const auto checkpoint = Checkpoint::Open(directory_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto read = checkpoint->Read("w");
    ASSERT_TRUE(read.ok()) << read.status();
    tensor = *read;
  }
  EXPECT_EQ(tensor.sum().item<float>(), 499500.0F);
}

TEST_F(CheckpointTest, UnalignedDataIsReadRight) {
  // Without padding the data starts where the header happens to end.
  const std::string header = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  ASSERT_NE((8 + header.size()) % 4, 0);
  WriteFile(header, std::string_view("\x00\x00\xc0\x3f", 4));
  const auto checkpoint = Checkpoint::Open(directory_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto w = checkpoint->Read("w");
  ASSERT_TRUE(w.ok()) << w.status();
  EXPECT_EQ((*w)[0].item<float>(), 1.5F);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(w->data_ptr()) % 4, 0);
}

TEST_F(CheckpointTest, ZeroSizedTensorKeepsItsShape) {
  WriteFile(R"({"w":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", "");
  const auto checkpoint = Checkpoint::Open(directory_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto w = checkpoint->Read("w");
  ASSERT_TRUE(w.ok()) << w.status();
  EXPECT_EQ(w->sizes(), (std::vector<std::int64_t>{0, 7}));
}

TEST_F(CheckpointTest, UnknownTensorIsNamed) {
  WriteFile("{}", "");
  const auto checkpoint = Checkpoint::Open(directory_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto read = checkpoint->Read("model.norm.weight");
  EXPECT_EQ(read.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(read.status()), "INVALID_CHECKPOINT");
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("no tensor model.norm.weight"));
}

TEST_F(CheckpointTest, BadHeaderIsRefusedOnOpening) {
  WriteFile(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "1234");
  EXPECT_EQ(ErrorReason(Checkpoint::Open(directory_).status()), "INVALID_CHECKPOINT");
  EXPECT_EQ(ErrorReason(Checkpoint::Open(directory_ / "absent").status()), "MODEL_NOT_FOUND");
}

TEST_F(CheckpointTest, WrittenFileIsTheFormatByteForByte) {
  ASSERT_TRUE(WriteSafetensors(File(), {{"b", torch::tensor({1, 2}, torch::kInt32)},
                                        {"a", torch::tensor({1.5F}, torch::kFloat16)}})
                  .ok());
  std::ifstream stream(File(), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(stream)), {});
  std::string header = R"({"__metadata__":{"format":"pt"},)"
                       R"("b":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},)"
                       R"("a":{"dtype":"F16","shape":[1],"data_offsets":[8,10]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string expected(8, '\0');
  expected[0] = static_cast<char>(header.size());
  expected += header;
  expected += std::string_view("\x01\0\0\0\x02\0\0\0\x00\x3e", 10);
  EXPECT_EQ(bytes, expected);
}

TEST_F(CheckpointTest, WriterTellsTheDigestOfTheWholeFile) {
  const torch::Tensor tensor = torch::arange(1000, torch::kInt16).reshape({10, 100});
  auto writer = SafetensorsWriter::Create(
      File(),
      {EntryOf("a", tensor), EntryOf("empty", torch::empty({0})), EntryOf("b", tensor.t())});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const torch::Tensor& each : {tensor, torch::empty({0}), tensor.t()}) {
    ASSERT_TRUE(writer->Add(each).ok());
  }
  const auto digest = writer->Finish();
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, objects::FileSha256(File()).value());
}

TEST_F(CheckpointTest, EveryTypeAndLayoutSurvivesWritingAndReading) {
  const torch::Tensor base = torch::arange(24, torch::kFloat32).reshape({4, 6});
  const std::vector<std::pair<std::string, torch::Tensor>> tensors = {
      {"f32", base},
      {"transposed", base.t()},
      {"slice", base.slice(1, 1, 6, 2)},
      {"f16", base.to(torch::kFloat16)},
      {"bf16", base.to(torch::kBFloat16)},
      {"f64", base.to(torch::kFloat64)},
      {"i64", base.to(torch::kInt64)},
      {"i32", base.to(torch::kInt32)},
      {"i16", base.to(torch::kInt16)},
      {"i8", base.to(torch::kInt8)},
      {"u8", base.to(torch::kUInt8)},
      {"bool", base > 5},
      {"scalar", torch::tensor(3.0F)},
      {"empty", torch::empty({0, 5})},
      {"name \" with \\ \xc3\xa9", base},
      {"after odd bytes", base},
  };
  ASSERT_TRUE(WriteSafetensors(File(), tensors).ok());
  const auto checkpoint = Checkpoint::Open(directory_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->index().tensors.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const auto read = checkpoint->Read(name);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(torch::equal(*read, tensor)) << name;
  }
}

TEST_F(CheckpointTest, FullDiskIsReported) {
  const auto status = WriteSafetensors("/dev/full", {{"w", torch::ones({4})}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(status), "DISK_FULL");
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/full"));
}

TEST_F(CheckpointTest, TensorsThatTheFormatCannotHoldAreRefused) {
  EXPECT_EQ(
      ErrorReason(WriteSafetensors(File(), {{"w", torch::ones({1})}, {"w", torch::ones({1})}})),
      "WRITE_FAILED");
  EXPECT_EQ(ErrorReason(WriteSafetensors(File(), {{"__metadata__", torch::ones({1})}})),
            "WRITE_FAILED");
  EXPECT_EQ(ErrorReason(WriteSafetensors(File(), {{"w", torch::ones({1}, torch::kComplexFloat)}})),
            "WRITE_FAILED");
}

}  // namespace
}  // namespace teq::checkpoint
