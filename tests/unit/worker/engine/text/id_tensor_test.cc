#include "worker/engine/text/id_tensor.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "byte_tokenizer.h"
#include "bytes_read.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "test_directory.h"
#include "worker/engine/text/windows.h"

namespace teq::text {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// A safetensors file's beginning.
std::string Header(std::string_view json) {
  return Bytes<std::uint64_t>({json.size()}) + std::string(json);
}

std::string Tensor(std::string_view dtype, std::string_view shape, std::size_t bytes,
                   std::string_view name = "input_ids") {
  return Header(fmt::format(R"({{"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})", name,
                            dtype, shape, bytes));
}

class IdTensorTest : public ::testing::Test {
 protected:
  absl::StatusOr<Windows> Read(std::string_view bytes, std::int64_t length) {
    return ReadEvaluationWindows(directory_.Write("ids.safetensors", bytes), ByteTokenizer(), 302,
                                 length);
  }

  void ExpectInvalid(std::string_view bytes, std::string_view part,
                     std::string_view reason = "INVALID_TEXT") {
    const auto windows = Read(bytes, 2);
    EXPECT_EQ(ErrorReason(windows.status()), reason) << part;
    EXPECT_THAT(std::string(windows.status().message()),
                AllOf(HasSubstr("ids.safetensors: "), HasSubstr(std::string(part))));
  }

  TestDirectory directory_;
};

TEST_F(IdTensorTest, RowsAreWindowsCutToTheLength) {
  const auto windows =
      Read(Tensor("I64", "2, 3", 48) + Bytes<std::int64_t>({1, 2, 3, 4, 5, 301}), 2);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 2);
  EXPECT_THAT(windows->ids, ElementsAre(1, 2, 4, 5));
}

TEST_F(IdTensorTest, OneRowOfTokensIsCutIntoWindows) {
  const auto windows = Read(Tensor("I32", "5", 20) + Bytes<std::int32_t>({1, 2, 3, 4, 5}), 2);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 2);
  EXPECT_THAT(windows->ids, ElementsAre(1, 2, 3, 4));
}

TEST_F(IdTensorTest, CalibrationChoosesRowsAsItChoosesWindowsOfText) {
  std::vector<std::int32_t> ids;
  std::string text;
  for (int i = 1; i <= 100; ++i) {
    ids.push_back(i == 1 ? 300 : i - 1);
    if (i > 1) text += static_cast<char>(i - 1);
  }
  const auto of_ids = ReadCalibrationWindows(
      directory_.Write("ids.safetensors", Tensor("I32", "100", 400) + Bytes(ids)), ByteTokenizer(),
      302, 1, 20, 9);
  const auto of_text =
      ReadCalibrationWindows(directory_.Write("t.txt", text), ByteTokenizer(), 302, 1, 20, 9);
  ASSERT_TRUE(of_ids.ok() && of_text.ok()) << of_ids.status() << of_text.status();
  EXPECT_EQ(of_ids->ids, of_text->ids);
  EXPECT_EQ(of_ids->count, 20);
}

TEST_F(IdTensorTest, OnlyTheChosenWindowsAreRead) {
  constexpr std::uintmax_t kBytes = std::uintmax_t{1} << 30;
  const std::string header = Tensor("I64", "65536, 2048", kBytes);
  const auto file = directory_.Write("ids.safetensors", header);
  std::filesystem::resize_file(file, header.size() + kBytes);
  const std::uint64_t before = BytesRead();
  const auto windows = ReadCalibrationWindows(file, ByteTokenizer(), 302, 128, 64, 1);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 64);
  EXPECT_LT(BytesRead() - before, 64 * 128 * 8 + 20'000);
}

TEST_F(IdTensorTest, TensorsOfAnotherKindAreNamed) {
  constexpr std::string_view kRemedy =
      "; save one tensor input_ids, I32 or I64, [windows, tokens] or [tokens]";
  ExpectInvalid(Tensor("F32", "2, 2", 16) + std::string(16, '\0'),
                fmt::format("tensor input_ids has dtype F32 and shape [2, 2]{}", kRemedy));
  ExpectInvalid(Tensor("I32", "1, 2, 2", 16) + std::string(16, '\0'), "I32 and shape [1, 2, 2]");
  ExpectInvalid(Tensor("I32", "", 4) + std::string(4, '\0'), "I32 and shape []");
  ExpectInvalid(Tensor("U16", "2", 4) + std::string(4, '\0'), "dtype U16 of tensor input_ids");
  ExpectInvalid(Tensor("I32", "2", 8, "tokens") + std::string(8, '\0'),
                fmt::format("holds the tensor tokens{}", kRemedy));
  ExpectInvalid(Header(R"({"attention_mask":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},
                           "input_ids":{"dtype":"I32","shape":[2],"data_offsets":[8,16]}})") +
                    std::string(16, '\0'),
                "holds the tensor attention_mask");
  ExpectInvalid(Header("{}"), "holds no tensor");
}

TEST_F(IdTensorTest, RowsTooShortForAWindowSayWhatTheyAre) {
  ExpectInvalid(Tensor("I32", "3, 1", 12) + std::string(12, '\0'),
                "has tensor input_ids of dtype I32 and shape [3, 1], and one window needs 2",
                "TEXT_TOO_SHORT");
  ExpectInvalid(Tensor("I32", "0, 4", 0), "shape [0, 4]", "TEXT_TOO_SHORT");
  ExpectInvalid(Tensor("I32", "1", 4) + std::string(4, '\0'), "shape [1]", "TEXT_TOO_SHORT");
}

TEST_F(IdTensorTest, IdOutsideTheVocabularyIsNamedWithItsPlace) {
  ExpectInvalid(
      Tensor("I32", "2, 2", 16) + Bytes<std::int32_t>({1, 2, 3, 302}),
      "holds 302, as token 1 of window 1, which is no id below the vocabulary's size 302");
  ExpectInvalid(Tensor("I64", "2", 16) + Bytes<std::int64_t>({1, -1}), "holds -1");
  ExpectInvalid(Tensor("I64", "2", 16) + Bytes<std::int64_t>({std::int64_t{1} << 40, 1}),
                "holds 1099511627776");
}

TEST_F(IdTensorTest, FilesThatAreNoTensorsAreRefused) {
  ExpectInvalid("", "at least 8; save one tensor input_ids");
  ExpectInvalid("{\"text\": \"a\"}", "no safetensors file");
  ExpectInvalid(Tensor("I32", "4", 16) + std::string(8, '\0'), "cut short");
  const auto missing =
      ReadEvaluationWindows(directory_.path() / "absent.safetensors", ByteTokenizer(), 302, 2);
  EXPECT_EQ(ErrorReason(missing.status()), "TEXT_NOT_FOUND");
}

}  // namespace
}  // namespace teq::text
