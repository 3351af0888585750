#include "client/model_info/safetensors_header.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string LengthField(std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

class SafetensorsHeaderTest : public ::testing::Test {
 protected:
  SafetensorsHeaderTest()
      : directory_(std::filesystem::path(::testing::TempDir()) /
                   fmt::format("{}-{}",
                               ::testing::UnitTest::GetInstance()->current_test_info()->name(),
                               getpid())) {
    std::filesystem::create_directories(directory_);
  }
  ~SafetensorsHeaderTest() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path WriteBytes(std::string_view name, std::string_view bytes) {
    const auto path = directory_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  // A file of this header and `data_bytes` bytes of data.
  std::filesystem::path WriteFile(std::string_view header, std::size_t data_bytes,
                                  std::string_view name = "model.safetensors") {
    return WriteBytes(
        name, LengthField(header.size()) + std::string(header) + std::string(data_bytes, 'x'));
  }

  void ExpectInvalid(const std::filesystem::path& file, std::string_view part) {
    const auto header = ReadSafetensorsHeader(file);
    ASSERT_FALSE(header.ok()) << part;
    EXPECT_EQ(header.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ErrorReason(header.status()), "INVALID_CHECKPOINT");
    EXPECT_THAT(std::string(header.status().message()),
                AllOf(HasSubstr(file.string()), HasSubstr(std::string(part))));
  }

  void ExpectInvalidHeader(std::string_view header, std::size_t data_bytes, std::string_view part) {
    ExpectInvalid(WriteFile(header, data_bytes), part);
  }

  void ExpectInvalidDirectory(std::string_view part) {
    const auto index = ReadCheckpointIndex(directory_);
    ASSERT_FALSE(index.ok()) << part;
    EXPECT_EQ(ErrorReason(index.status()), "INVALID_CHECKPOINT");
    EXPECT_THAT(std::string(index.status().message()), HasSubstr(std::string(part)));
  }

  std::filesystem::path directory_;
};

constexpr std::string_view kOneTensor =
    R"({"w":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}})";

TEST_F(SafetensorsHeaderTest, ReadsTensorsWithTheirPlaceInTheFile) {
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
                             R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )";
  const auto file = WriteFile(header, 16);
  const auto tensors = ReadSafetensorsHeader(file);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2);
  const TensorInfo& a = tensors->at("a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_TRUE(a.shape.empty());
  EXPECT_EQ(a.offset, 8 + header.size());
  EXPECT_EQ(a.bytes, 4);
  EXPECT_EQ(a.file, file);
  const TensorInfo& b = tensors->at("b");
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_THAT(b.shape, ElementsAre(2, 3));
  EXPECT_EQ(b.offset, 8 + header.size() + 4);
  EXPECT_EQ(b.bytes, 12);
}

TEST_F(SafetensorsHeaderTest, ZeroSizedTensorsTakeNoBytesAndOverlapNothing) {
  const auto tensors =
      ReadSafetensorsHeader(WriteFile(R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},)"
                                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                                      R"("c":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
                                      4));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->at("a").bytes, 0);
}

TEST_F(SafetensorsHeaderTest, HeaderWithoutTensorsIsAnEmptyCheckpointFile) {
  const auto tensors = ReadSafetensorsHeader(WriteFile("{}", 0));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_TRUE(tensors->empty());
}

TEST_F(SafetensorsHeaderTest, MissingFileIsNotFound) {
  const auto header = ReadSafetensorsHeader(directory_ / "absent.safetensors");
  EXPECT_EQ(header.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(header.status()), "MODEL_NOT_FOUND");
  EXPECT_THAT(std::string(header.status().message()), HasSubstr("absent.safetensors"));
}

TEST_F(SafetensorsHeaderTest, DirectoryIsNoFile) {
  ExpectInvalid(directory_, "not a regular file");
}

TEST_F(SafetensorsHeaderTest, FileTooShortForItsLengthFieldIsRefused) {
  ExpectInvalid(WriteBytes("f", ""), "has 0 bytes");
  ExpectInvalid(WriteBytes("f", "1234567"), "has 7 bytes");
}

TEST_F(SafetensorsHeaderTest, HeaderLengthOfTwoToTheSixtyIsRefusedUnread) {
  ExpectInvalid(WriteBytes("f", LengthField(std::uint64_t{1} << 60) + "{}"),
                "length is 1152921504606846976");
}

TEST_F(SafetensorsHeaderTest, HeaderLengthBeyondTheFileIsRefused) {
  ExpectInvalid(WriteBytes("f", LengthField(3) + "{}"), "length is 3, but only 2 bytes follow");
}

TEST_F(SafetensorsHeaderTest, DataCutShortIsRefused) {
  ExpectInvalidHeader(kOneTensor, 11, "tensor w ends at byte 12 of the data, which has 11");
}

TEST_F(SafetensorsHeaderTest, BrokenJsonIsRefused) {
  for (const char* header : {"", "{", "{\"a\":", "nonsense", "{} {}", "\xff\xfe", "{\"\xc3\":1}"}) {
    ExpectInvalidHeader(header, 0, "not JSON");
  }
}

TEST_F(SafetensorsHeaderTest, JsonOfAnotherFormIsRefused) {
  ExpectInvalidHeader("[]", 0, "not a JSON object");
  ExpectInvalidHeader("7", 0, "not a JSON object");
  ExpectInvalidHeader(R"({"w":5})", 0, "tensor w is 5, not an object");
  ExpectInvalidHeader(R"({"w":[1]})", 0, "tensor w is a list");
  ExpectInvalidHeader(R"({"w":{}})", 0, "needs the fields");
  ExpectInvalidHeader(R"({"w":{"dtype":"F32","shape":[1]}})", 0, "needs the fields");
  ExpectInvalidHeader(R"({"w":{"kind":1}})", 0, "unknown field \"kind\"");
  ExpectInvalidHeader(R"({"w":{"dtype":3}})", 0, "dtype of tensor w is or holds 3");
  ExpectInvalidHeader(R"({"w":{"dtype":["F32"]}})", 0, "dtype of tensor w is or holds a list");
  ExpectInvalidHeader(R"({"w":{"shape":7}})", 0, "shape of tensor w is or holds 7");
  ExpectInvalidHeader(R"({"w":{"shape":{"a":1}}})", 0, "an object inside tensor w");
  ExpectInvalidHeader(R"({"w":{"shape":[[1]]}})", 0, "shape of tensor w is or holds a list");
  ExpectInvalidHeader(R"({"w":{"shape":["1"]}})", 0, "shape of tensor w is or holds \"1\"");
  ExpectInvalidHeader(R"({"w":{"shape":[1.5]}})", 0, "shape of tensor w is or holds 1.5");
  ExpectInvalidHeader(R"({"w":{"shape":[null]}})", 0, "shape of tensor w is or holds null");
  ExpectInvalidHeader(R"({"__metadata__":{"format":1}})", 0, "__metadata__ holds 1");
  ExpectInvalidHeader(R"({"__metadata__":{"format":["pt"]}})", 0, "__metadata__ holds a list");
}

TEST_F(SafetensorsHeaderTest, DeeplyNestedJsonIsRefusedAtOnce) {
  ExpectInvalidHeader(std::string(1'000'000, '['), 0, "not a JSON object");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"shape\":";
  ExpectInvalidHeader(objects, 0, "an object inside tensor shape");
  ExpectInvalidHeader(R"({"w":{"shape":)" + std::string(1'000'000, '['), 0, "holds a list");
}

TEST_F(SafetensorsHeaderTest, UnknownTypeIsNamedWithWhatIsKnown) {
  ExpectInvalidHeader(R"({"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1,
                      "dtype F8_E4M3 of tensor w is not supported; supported: F32, F16, BF16");
}

TEST_F(SafetensorsHeaderTest, NegativeDimensionIsRefused) {
  ExpectInvalidHeader(R"({"w":{"dtype":"F16","shape":[-2,-3],"data_offsets":[0,12]}})", 12,
                      "shape of tensor w is or holds -2");
}

TEST_F(SafetensorsHeaderTest, OverflowingShapeIsRefused) {
  ExpectInvalidHeader(
      R"({"w":{"dtype":"F16","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
      "too many elements");
  ExpectInvalidHeader(
      R"({"w":{"dtype":"F16","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", 0,
      "too many elements");
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0]}})",
                      0, "too large");
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[36893488147419103232],"data_offsets":[0,0]}})",
                      0, "shape of tensor w");
}

TEST_F(SafetensorsHeaderTest, TooManyDimensionsAreRefused) {
  ExpectInvalidHeader(
      R"({"w":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1,
      "shape of tensor w has more than 16 numbers");
}

TEST_F(SafetensorsHeaderTest, TypeAndShapeThatDisagreeWithTheBytesAreRefused) {
  ExpectInvalidHeader(R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,12]}})", 12,
                      "tensor w: F32 and its shape need 24 bytes, data_offsets hold 12");
}

TEST_F(SafetensorsHeaderTest, OffsetsThatAreNoRangeAreRefused) {
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4,
                      "data_offsets of tensor w");
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0]}})", 4,
                      "data_offsets of tensor w");
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4,8]}})", 4,
                      "data_offsets of tensor w");
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}})", 4,
                      "data_offsets of tensor w");
}

TEST_F(SafetensorsHeaderTest, OffsetsOutsideTheFileAreRefused) {
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[100,104]}})", 4,
                      "tensor w ends at byte 104");
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[4],)"
                      R"("data_offsets":[9223372036854775803,9223372036854775807]}})",
                      4, "tensor w ends at byte 9223372036854775807");
}

TEST_F(SafetensorsHeaderTest, OverlappingTensorsAreNamed) {
  ExpectInvalidHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                      6, "tensors a and b overlap");
}

TEST_F(SafetensorsHeaderTest, BytesOfNoTensorAreRefused) {
  ExpectInvalidHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
                      10, "2 bytes between a and tensor b");
  ExpectInvalidHeader(kOneTensor, 15, "3 bytes after the last tensor");
}

TEST_F(SafetensorsHeaderTest, TwoTensorsOfOneNameAreRefused) {
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                      R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                      2, "two tensors are named w");
  ExpectInvalidHeader(R"({"w":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1,
                      "tensor w has two fields dtype");
}

TEST_F(SafetensorsHeaderTest, DirectoryWithOneFileIsACheckpoint) {
  WriteFile(kOneTensor, 12);
  const auto index = ReadCheckpointIndex(directory_);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_THAT(index->files, ElementsAre(directory_ / "model.safetensors"));
  EXPECT_TRUE(index->tensors.contains("w"));
}

TEST_F(SafetensorsHeaderTest, ShardsOfTheIndexAreReadInNameOrder) {
  WriteFile(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "2.safetensors");
  WriteFile(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "1.safetensors");
  WriteBytes("model.safetensors.index.json",
             R"({"metadata":{"total_size":2},)"
             R"("weight_map":{"b":"2.safetensors","a":"1.safetensors"}})");
  const auto index = ReadCheckpointIndex(directory_);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_THAT(index->files,
              ElementsAre(directory_ / "1.safetensors", directory_ / "2.safetensors"));
  EXPECT_EQ(index->tensors.at("b").file, directory_ / "2.safetensors");
}

TEST_F(SafetensorsHeaderTest, MissingShardIsNamed) {
  WriteBytes("model.safetensors.index.json", R"({"weight_map":{"a":"1.safetensors"}})");
  ExpectInvalidDirectory("1.safetensors, which is missing");
}

TEST_F(SafetensorsHeaderTest, ShardOutsideTheDirectoryIsRefused) {
  WriteBytes("model.safetensors.index.json", R"({"weight_map":{"a":"../other/1.safetensors"}})");
  ExpectInvalidDirectory("\"../other/1.safetensors\"; name files inside");
  WriteBytes("model.safetensors.index.json", R"({"weight_map":{"a":"/etc/passwd"}})");
  ExpectInvalidDirectory("\"/etc/passwd\"; name files inside");
  WriteBytes("model.safetensors.index.json", R"({"weight_map":{"a":""}})");
  ExpectInvalidDirectory("\"\"; name files inside");
  WriteBytes("model.safetensors.index.json", R"({"weight_map":{"a":"1\u0000"}})");
  ExpectInvalidDirectory("name files inside");
}

TEST_F(SafetensorsHeaderTest, TensorInTwoShardsIsRefused) {
  WriteFile(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "1.safetensors");
  WriteFile(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
            R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
            2, "2.safetensors");
  WriteBytes("model.safetensors.index.json",
             R"({"weight_map":{"b":"2.safetensors","a":"1.safetensors"}})");
  ExpectInvalidDirectory("tensor a is also in 1.safetensors");
}

TEST_F(SafetensorsHeaderTest, TensorThatNoShardHasIsNamed) {
  WriteFile(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "1.safetensors");
  WriteBytes("model.safetensors.index.json",
             R"({"weight_map":{"b":"1.safetensors","a":"1.safetensors"}})");
  ExpectInvalidDirectory("tensor b is in 1.safetensors; it is not");
}

TEST_F(SafetensorsHeaderTest, BrokenIndexIsRefused) {
  const std::string file = "model.safetensors.index.json";
  WriteBytes(file, "{");
  ExpectInvalidDirectory("is not JSON");
  WriteBytes(file, std::string(1'000'000, '['));
  ExpectInvalidDirectory(file);
  WriteBytes(file, "{\"weight_map\":" + std::string(1000, '[') + std::string(1000, ']') + "}");
  ExpectInvalidDirectory("nested too deeply");
  WriteBytes(file, "[]");
  ExpectInvalidDirectory("no object weight_map");
  WriteBytes(file, R"({"weight_map":{}})");
  ExpectInvalidDirectory("weight_map is empty");
  WriteBytes(file, R"({"weight_map":{"a":1}})");
  ExpectInvalidDirectory("weight_map of a is not a file name");
}

TEST_F(SafetensorsHeaderTest, PickledWeightsAreRefusedWithTheWayToConvertThem) {
  WriteBytes("pytorch_model.bin", "pickle");
  ExpectInvalidDirectory("safe_serialization=True");
}

TEST_F(SafetensorsHeaderTest, DirectoryWithoutWeightsIsNotFound) {
  const auto index = ReadCheckpointIndex(directory_);
  EXPECT_EQ(ErrorReason(index.status()), "MODEL_NOT_FOUND");
  EXPECT_THAT(std::string(index.status().message()), HasSubstr("model.safetensors.index.json"));
  EXPECT_EQ(ErrorReason(ReadCheckpointIndex(directory_ / "absent").status()), "MODEL_NOT_FOUND");
}

// Damage of all kinds gives a status or a header whose tensors lie inside the file; never a crash.
TEST_F(SafetensorsHeaderTest, DamagedHeaderGivesAStatusOrTensorsInsideTheFile) {
  constexpr std::string_view kInserted[] = {
      "-1", "99999999999999999999", "[", "]", "{", "}", "\"", "null", "\xff", "0", ","};
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]}})";
  const std::string original = LengthField(header.size()) + header + std::string(20, 'x');
  std::mt19937_64 random(1);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = original;
    for (std::uint64_t change = 0; change <= random() % 3; ++change) {
      const std::size_t at = random() % bytes.size();
      const std::uint64_t kind = random() % 4;
      if (kind == 0) bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
      if (kind == 1) bytes.erase(at, 1 + random() % 4);
      if (kind == 2) bytes.insert(at, kInserted[random() % std::size(kInserted)]);
      if (kind == 3) bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 40));
    }
    // The length field agrees with the header more often than not, so that damage is found behind
    // it.
    if (random() % 4 != 0 && bytes.size() > 28) {
      bytes.replace(0, 8, LengthField(bytes.size() - 28));
    }
    const auto tensors = ReadSafetensorsHeader(WriteBytes("f", bytes));
    if (!tensors.ok()) {
      ASSERT_EQ(ErrorReason(tensors.status()), "INVALID_CHECKPOINT") << "round " << round;
      continue;
    }
    for (const auto& [name, tensor] : *tensors) {
      ASSERT_LE(tensor.offset, bytes.size()) << "round " << round;
      ASSERT_LE(tensor.bytes, bytes.size() - tensor.offset) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace teq::model_info
