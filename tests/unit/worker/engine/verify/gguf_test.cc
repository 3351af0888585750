// The reader on bytes made here by hand, by the specification of GGUF.
#include "worker/engine/verify/gguf.h"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "worker/engine/verify/gguf_blocks.h"
#include "worker/engine/verify/gguf_file.h"

namespace teq::verify {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Number>
std::string Raw(Number number) {
  std::string bytes(sizeof(Number), '\0');
  std::memcpy(bytes.data(), &number, sizeof(Number));
  return bytes;
}
std::string U32(std::uint32_t number) { return Raw(number); }
std::string U64(std::uint64_t number) { return Raw(number); }
std::string Text(const std::string& text) { return U64(text.size()) + text; }

/// The parts of a file; a test changes some.
struct Parts {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t tensor_count = 2;
  std::uint64_t value_count = 2;
  std::string values = Text("a") + U32(4) + U32(7) +                                 // a number
                       Text("b") + U32(9) + U32(8) + U64(2) + Text("x") + Text("");  // texts
  std::string first = Text("codes") + U32(2) + U64(32) + U64(2) + U32(2) + U64(0);
  std::string second = Text("vector") + U32(1) + U64(2) + U32(0) + U64(64);
  // Two blocks of Q4_0, 36 bytes, then padding to 64; then two floats.
  std::string data = std::string(64, '\0') + Raw(1.5F) + Raw(-2.0F);
  std::size_t cut = 0;

  [[nodiscard]] std::string Bytes() const {
    std::string bytes =
        magic + U32(version) + U64(tensor_count) + U64(value_count) + values + first + second;
    bytes.append((32 - bytes.size() % 32) % 32, '\0');
    bytes += data;
    bytes.resize(bytes.size() - cut);
    return bytes;
  }
};

class GgufFileTest : public ::testing::Test {
 protected:
  GgufFileTest()
      : file_(std::filesystem::path(::testing::TempDir()) /
              (std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) +
               std::to_string(getpid()) + ".gguf")) {}
  ~GgufFileTest() override { std::filesystem::remove(file_); }

  absl::StatusOr<GgufFile> Open(const Parts& parts) {
    std::ofstream(file_, std::ios::binary) << parts.Bytes();
    return GgufFile::Open(file_);
  }

  void ExpectRefused(const std::function<void(Parts&)>& change, const std::string& message) {
    Parts parts;
    change(parts);
    const auto opened = Open(parts);
    ASSERT_FALSE(opened.ok()) << message;
    EXPECT_EQ(ErrorReason(opened.status()), "VERIFY_FAILED");
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(message));
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(file_.string()));
  }

  std::filesystem::path file_;
};

TEST_F(GgufFileTest, ReadsValuesAndTensors) {
  const auto opened = Open({});
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->values().at("a"), 7);
  EXPECT_EQ(opened->values().at("b"), (nlohmann::json{"x", ""}));
  const GgufFile::Tensor& codes = opened->tensors().at("codes");
  EXPECT_THAT(codes.shape, ElementsAre(2, 32));
  EXPECT_EQ(codes.bytes, 36U);
  const torch::Tensor vector = CopyFloats(opened->tensors().at("vector"));
  EXPECT_EQ(vector[0].item<float>(), 1.5F);
  EXPECT_EQ(vector[1].item<float>(), -2.0F);
}

TEST_F(GgufFileTest, RefusesWhatIsNotToTheSpecification) {
  ExpectRefused([](Parts& p) { p.magic = "GGML"; }, "no GGUF file");
  ExpectRefused([](Parts& p) { p.version = 2; }, "no GGUF file");
  // What is read as a third tensor are zeros; and as the first, the second value.
  ExpectRefused([](Parts& p) { p.tensor_count = 3; }, "has 0 extents");
  ExpectRefused([](Parts& p) { p.value_count = 1; }, "tensor b has 9 extents");
  ExpectRefused([](Parts& p) { p.tensor_count = ~std::uint64_t{0}; }, "has 0 extents");
  ExpectRefused(
      [](Parts& p) { p.values = Text("a") + U32(4) + U32(7) + Text("a") + U32(7) + "\1"; },
      "key a twice");
  ExpectRefused([](Parts& p) { p.values = U64(1 << 30) + "a"; }, "ends at byte");
  ExpectRefused([](Parts& p) { p.values = Text("a") + U32(13) + p.values; }, "type 13");
  ExpectRefused([](Parts& p) { p.values = Text("a") + U32(7) + "\2"; }, "bool of 2");
  ExpectRefused([](Parts& p) { p.values = Text("a") + U32(9) + U32(0) + U64(1ULL << 60); },
                "array of");
  ExpectRefused([](Parts& p) { p.values = Text("a") + U32(9) + U32(9) + U64(1); },
                "array of arrays");
  ExpectRefused([](Parts& p) { p.first = Text("codes") + U32(0) + U32(2) + U64(0); },
                "tensor codes has 0 extents");
  ExpectRefused(
      [](Parts& p) { p.first = Text("codes") + U32(2) + U64(0) + U64(2) + U32(2) + U64(0); },
      "extent of 0");
  ExpectRefused(
      [](Parts& p) {
        p.first = Text("codes") + U32(2) + U64(1ULL << 40) + U64(1ULL << 40) + U32(2) + U64(0);
      },
      "tensor codes has an extent");
  ExpectRefused(
      [](Parts& p) { p.first = Text("codes") + U32(2) + U64(48) + U64(2) + U32(2) + U64(0); },
      "do not fill blocks of 32");
  ExpectRefused(
      [](Parts& p) { p.first = Text("codes") + U32(2) + U64(32) + U64(2) + U32(12) + U64(0); },
      "type 12");
  ExpectRefused([](Parts& p) { p.second = Text("vector") + U32(1) + U64(2) + U32(0) + U64(32); },
                "tensor vector begins at 32");
  ExpectRefused([](Parts& p) { p.second = Text("vector") + U32(1) + U64(2) + U32(0) + U64(96); },
                "tensor vector begins at 96");
  ExpectRefused([](Parts& p) { p.second = Text("codes") + U32(1) + U64(2) + U32(0) + U64(64); },
                "tensor codes twice");
  ExpectRefused([](Parts& p) { p.cut = 1; }, "tensor vector of 8 bytes");
  ExpectRefused([](Parts& p) { p.data += std::string(64, '\0'); }, "behind its last tensor");
  ExpectRefused(
      [](Parts& p) {
        p.values = Text("general.alignment") + U32(4) + U32(24) + Text("b") + U32(7) + "\1";
      },
      "general.alignment is 24");
}

TEST_F(GgufFileTest, EveryShorterFileIsRefused) {
  const std::string bytes = Parts().Bytes();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    std::ofstream(file_, std::ios::binary) << bytes.substr(0, size);
    EXPECT_EQ(ErrorReason(GgufFile::Open(file_).status()), "VERIFY_FAILED") << size;
  }
}

std::vector<float> Values(std::uint32_t type, const std::vector<int>& bytes, std::int64_t columns) {
  const std::vector<std::uint8_t> data(bytes.begin(), bytes.end());
  const auto layer = DecodeBlocks({type, {1, columns}, data.data(), data.size()});
  EXPECT_TRUE(layer.ok()) << layer.status();
  const torch::Tensor weight = layer->weight.contiguous();
  return {weight.data_ptr<float>(), weight.data_ptr<float>() + weight.numel()};
}

TEST(GgufBlocksTest, NibblesAreSixteenApart) {
  std::vector<int> bytes = {0x00, 0x34};  // 0.25
  for (int i = 0; i < 16; ++i) bytes.push_back(i | (15 - i) << 4);
  const std::vector<float> values = Values(2, bytes, 32);
  EXPECT_EQ(values[0], -2.0F);   // 0.25 * (0 - 8)
  EXPECT_EQ(values[15], 1.75F);  // 0.25 * (15 - 8)
  EXPECT_EQ(values[16], 1.75F);
  EXPECT_EQ(values[31], -2.0F);
  bytes.insert(bytes.begin() + 2, {0x00, 0xbe});  // -1.5
  const std::vector<float> offset = Values(3, bytes, 32);
  EXPECT_EQ(offset[0], -1.5F);
  EXPECT_EQ(offset[15], 2.25F);
}

TEST(GgufBlocksTest, BytesAreSigned) {
  std::vector<int> bytes = {0x00, 0x34};
  for (int i = 0; i < 32; ++i) bytes.push_back(i == 0 ? 0x80 : i);
  const std::vector<float> values = Values(8, bytes, 32);
  EXPECT_EQ(values[0], -32.0F);
  EXPECT_EQ(values[31], 7.75F);
}

TEST(GgufBlocksTest, TritsAndQuartersAreReadAsGgmlReadsThem) {
  std::vector<int> trits(54, 0);
  trits[0] = 187;  // 1, -1, 0, 1, -1
  trits[53] = 0x3c;
  const std::vector<float> ternary = Values(34, trits, 256);
  EXPECT_THAT((std::vector<float>{ternary[0], ternary[32], ternary[64], ternary[96], ternary[128]}),
              ElementsAre(1, -1, 0, 1, -1));
  EXPECT_EQ(ternary[255], -1.0F);

  std::vector<int> quarters(66, 0x55);
  quarters[0] = 0x92;  // 1, -1, 0, 1
  quarters[32] = 0xc0;
  quarters[64] = 0;
  quarters[65] = 0xbc;  // -1
  const std::vector<float> values = Values(35, quarters, 256);
  EXPECT_THAT((std::vector<float>{values[0], values[32], values[64], values[96]}),
              ElementsAre(-1, 1, 0, -1));
  EXPECT_EQ(values[128 + 96], -2.0F);
}

TEST(GgufBlocksTest, AScaleThatIsNotFiniteIsRefused) {
  std::vector<std::uint8_t> bytes(18, 0);
  bytes[1] = 0x7c;  // infinity
  EXPECT_EQ(ErrorReason(DecodeBlocks({2, {1, 32}, bytes.data(), 18}).status()), "VERIFY_FAILED");
}

}  // namespace
}  // namespace teq::verify
