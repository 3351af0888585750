#include "worker/engine/text/sampled_windows.h"

#include <algorithm>
#include <cstdint>
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

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;

using Ids = std::vector<std::int32_t>;

constexpr std::int64_t kLine = 32;
constexpr std::int64_t kLines = 400'000;

// kLines lines of kLine bytes that hold their numbers.
std::string NumberedLines() {
  std::string text;
  text.reserve(kLine * kLines);
  for (std::int64_t i = 0; i < kLines; ++i)
    text += fmt::format("{:08} abcdefghijklmnopqrstuv\n", i);
  return text;
}

class SampledWindowsTest : public ::testing::Test {
 protected:
  absl::StatusOr<Windows> Read(const std::filesystem::path& file, std::int64_t length,
                               std::int64_t samples, std::int64_t seed = 1) {
    return ReadCalibrationWindows(file, tokenizer_, 302, length, samples, seed);
  }

  // The windows' texts.
  std::vector<std::string> Texts(const std::filesystem::path& file, std::int64_t length,
                                 std::int64_t samples, std::int64_t seed = 1) {
    const auto windows = Read(file, length, samples, seed);
    EXPECT_TRUE(windows.ok()) << windows.status();
    std::vector<std::string> texts;
    if (!windows.ok()) return texts;
    EXPECT_EQ(windows->ids.size(), windows->count * length);
    for (std::int64_t i = 0; i < windows->count; ++i) {
      const auto begin = windows->ids.begin() + i * length;
      texts.emplace_back(begin, begin + length);
    }
    return texts;
  }

  // `head`, and a hole after it up to `size` bytes.
  std::filesystem::path WriteSparse(std::string_view name, std::string_view head,
                                    std::uintmax_t size) {
    auto file = directory_.Write(name, head);
    std::filesystem::resize_file(file, size);
    return file;
  }

  TestDirectory directory_;
  ByteTokenizer tokenizer_;
};

TEST_F(SampledWindowsTest, ShortTextsAndGreatDemandsAreCutWhole) {
  constexpr std::uint64_t kEightMiB = std::uint64_t{8} << 20;
  EXPECT_FALSE(IsSampled(kEightMiB, 16, 4));
  EXPECT_TRUE(IsSampled(kEightMiB + 1, 16, 4));
  // 128 windows of 2048 tokens, at 32 bytes a token.
  EXPECT_FALSE(IsSampled(128 * 2048 * 32 + 1, 2048, 129));
  EXPECT_TRUE(IsSampled(128 * 2048 * 32 + 1, 2048, 128));
}

TEST_F(SampledWindowsTest, LongTextIsReadAtTheChosenPlacesOnly) {
  // The text is short enough to be no binary file, and the hole's zero bytes are tokens too.
  const auto file = WriteSparse("t.txt", std::string(100'000, 'a'), std::uintmax_t{1} << 30);
  const std::uint64_t before = BytesRead();
  const auto windows = Read(file, 256, 128);
  const std::uint64_t read = BytesRead() - before;
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 128);
  // 64 KiB to see that it is text; for each window two chunks of 4 KiB.
  EXPECT_LT(read, 2'000'000);
}

TEST_F(SampledWindowsTest, WindowsBeginAtLinesSpreadOverTheText) {
  const std::string text = NumberedLines();
  const auto file = directory_.Write("t.txt", text);
  const auto texts = Texts(file, 100, 64);
  ASSERT_EQ(texts.size(), 64);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::int64_t number = std::stoll(texts[i].substr(0, 8));
    EXPECT_EQ(texts[i], text.substr(static_cast<std::size_t>(number * kLine), 100));
    // In the first half of its part of the lines.
    EXPECT_EQ(number * 64 / kLines, i);
    EXPECT_LE(number * 128 / kLines, 2 * i + 1);
  }
}

// The same places as without, whatever stands before them.
TEST_F(SampledWindowsTest, EveryWindowMayBeginWithThePrefix) {
  const auto file = directory_.Write("t.txt", NumberedLines());
  const auto texts = Texts(file, 99, 64);
  const auto windows = ReadCalibrationWindows(file, tokenizer_, 302, 100, 64, 1,
                                              /*prefix_in_every_window=*/true);
  ASSERT_TRUE(windows.ok()) << windows.status();
  ASSERT_EQ(windows->count, 64);
  ASSERT_EQ(texts.size(), 64);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto begin = windows->ids.begin() + static_cast<std::ptrdiff_t>(i) * 100;
    EXPECT_EQ(*begin, 300);
    EXPECT_EQ(std::string(begin + 1, begin + 100), texts[i]);
  }
}

TEST_F(SampledWindowsTest, SeedDecidesThePlaces) {
  const auto file = directory_.Write("t.txt", NumberedLines());
  EXPECT_EQ(Texts(file, 50, 8, 3), Texts(file, 50, 8, 3));
  EXPECT_NE(Texts(file, 50, 8, 3), Texts(file, 50, 8, 4));
}

// Worked out by a Python program with its own MT19937-64: the first line that begins at the part's
// begin plus a number below half of its size, drawn by rejection.
TEST_F(SampledWindowsTest, PlacesAreTheSameOnEveryMachine) {
  const auto file = directory_.Write("t.txt", NumberedLines());
  EXPECT_THAT(Texts(file, 8, 4, 42), ElementsAre("00016263", "00134214", "00216921", "00311115"));
}

TEST_F(SampledWindowsTest, WindowThatReachesTheNextPlaceIsFollowedWithoutOverlap) {
  // Half a part is 10,000 bytes and a window longer.
  const auto file = directory_.Write("t.txt", NumberedLines());
  const std::int64_t samples = kLines * kLine / 20'000;
  ASSERT_FALSE(IsSampled(kLines * kLine, 12'000, samples));
  const auto data = DataFile::Open(file);
  ASSERT_TRUE(data.ok()) << data.status();
  for (const Ids& prefix : {Ids(), Ids{300}}) {
    const auto windows = SampleWindows(*data, tokenizer_, 302, 12'000, samples, 1, prefix);
    ASSERT_TRUE(windows.ok()) << windows.status();
    EXPECT_GT(windows->count, samples * 9 / 10);
    const auto prefix_size = static_cast<std::int64_t>(prefix.size());
    std::int64_t end = 0;
    std::int64_t followed = 0;
    for (std::int64_t i = 0; i < windows->count; ++i) {
      // A window may begin within a line; the second of its lines is whole.
      const auto begin = windows->ids.begin() + i * 12'000;
      const std::string window(begin + prefix_size, begin + 12'000);
      const auto line = static_cast<std::int64_t>(window.find('\n')) + 1;
      const std::int64_t place =
          std::stoll(window.substr(static_cast<std::size_t>(line), 8)) * kLine;
      EXPECT_GE(place - line, end);
      followed += place - line == end ? 1 : 0;
      end = place - line + 12'000 - prefix_size;
    }
    EXPECT_GT(followed, 0);
  }
}

TEST_F(SampledWindowsTest, TextWithoutLineEndsIsCutBetweenCharacters) {
  std::string text;
  while (text.size() < 10'000'000) text += "\u65e5\u672c";
  const auto texts = Texts(directory_.Write("t.txt", text), 60, 32);
  ASSERT_EQ(texts.size(), 32);
  for (const std::string& window : texts) {
    EXPECT_TRUE(window.starts_with("\u65e5\u672c") || window.starts_with("\u672c\u65e5"));
  }
}

TEST_F(SampledWindowsTest, BytesThatAreNoTextAnywhereEndToo) {
  const std::string text = std::string(1'000'000, 'a') + std::string(9'000'000, '\x80');
  const auto windows = Read(directory_.Write("t.txt", text), 60, 32);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 32);
}

TEST_F(SampledWindowsTest, LinesOfTextAreTextsOfTheirOwn) {
  std::string lines;
  for (int i = 0; lines.size() < 10'000'000; ++i) {
    lines += fmt::format(R"({{"text": "{:08}", "other": "{}"}})", i, std::string(60, '-')) + "\n";
  }
  const auto windows = Read(directory_.Write("t.jsonl", lines), 27, 16);
  ASSERT_TRUE(windows.ok()) << windows.status();
  ASSERT_EQ(windows->count, 16);
  for (std::int64_t i = 0; i < 16; ++i) {
    for (std::int64_t line = 0; line < 3; ++line) EXPECT_EQ(windows->ids[i * 27 + line * 9], 300);
  }
}

TEST_F(SampledWindowsTest, LinesOfIdsAreWindowsOfTheirOwn) {
  std::string lines;
  for (int i = 0; lines.size() < 10'000'000; ++i) {
    lines += fmt::format(R"({{"input_ids": [{0}, {0}, {0}, {0}, 301]}})", i % 300) + "\n";
    lines += R"({"input_ids": [7]})"
             "\n";
  }
  const auto windows = Read(directory_.Write("t.jsonl", lines), 4, 50);
  ASSERT_TRUE(windows.ok()) << windows.status();
  ASSERT_EQ(windows->count, 50);
  for (std::int64_t i = 0; i < 50; ++i) {
    EXPECT_THAT(Ids(windows->ids.begin() + i * 4, windows->ids.begin() + i * 4 + 4),
                Each(windows->ids[i * 4]));
  }
  // Of the lines that were read.
  EXPECT_GT(windows->short_lines, 50);
  const auto with_prefix = ReadCalibrationWindows(directory_.path() / "t.jsonl", tokenizer_, 302, 4,
                                                  50, 1, /*prefix_in_every_window=*/true);
  ASSERT_TRUE(with_prefix.ok()) << with_prefix.status();
  EXPECT_EQ(with_prefix->ids, windows->ids);
}

TEST_F(SampledWindowsTest, LongDocumentsGiveSeveralWindows) {
  // 40 documents, 200 windows.
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    lines +=
        fmt::format(R"({{"text": "{}"}})", std::string(300'000, static_cast<char>('a' + i % 26)));
    lines += "\n";
  }
  const auto windows = Read(directory_.Write("t.jsonl", lines), 100, 200);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_GT(windows->count, 190);
}

TEST_F(SampledWindowsTest, BadLineIsNamedByItsPlace) {
  std::string lines;
  while (lines.size() < 10'000'000) lines += "{\"text\": \"abc\"}\n\n{\"txt\": \"abc\"}\n";
  const auto windows = Read(directory_.Write("t.jsonl", lines), 10, 4);
  EXPECT_EQ(ErrorReason(windows.status()), "INVALID_TEXT");
  EXPECT_THAT(std::string(windows.status().message()), HasSubstr("t.jsonl from byte "));
  EXPECT_THAT(std::string(windows.status().message()), HasSubstr("must be an object with either"));
}

TEST_F(SampledWindowsTest, LineWithoutEndIsRefusedBeforeItIsReadWhole) {
  const auto file = WriteSparse("t.jsonl", "{\"text\": \"", std::uintmax_t{1} << 30);
  const std::uint64_t before = BytesRead();
  const auto windows = Read(file, 10, 4);
  EXPECT_LT(BytesRead() - before, 64'000'000);
  EXPECT_EQ(ErrorReason(windows.status()), "INVALID_TEXT");
  EXPECT_THAT(std::string(windows.status().message()),
              HasSubstr("more than 16777216 bytes; split"));
}

// A tokenizer that drops all.
class SilentTokenizer : public ByteTokenizer {
 public:
  absl::StatusOr<Ids> Encode(std::string_view /*text*/) const override { return Ids(); }
};

TEST_F(SampledWindowsTest, PlacesWithoutTokensAreGivenUp) {
  const auto file = WriteSparse("t.txt", std::string(100'000, ' '), std::uintmax_t{1} << 30);
  const std::uint64_t before = BytesRead();
  const auto windows = ReadCalibrationWindows(file, SilentTokenizer(), 302, 256, 8, 1);
  EXPECT_LT(BytesRead() - before, 10'000'000);
  EXPECT_EQ(ErrorReason(windows.status()), "TEXT_TOO_SHORT");
  EXPECT_THAT(std::string(windows.status().message()), HasSubstr("one window needs 256"));
}

TEST_F(SampledWindowsTest, EvaluationReadsTheWholeText) {
  const std::string text = NumberedLines();
  const auto windows =
      ReadEvaluationWindows(directory_.Write("t.txt", text), tokenizer_, 302, 1000);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, (kLines * kLine + 1) / 1000);
}

}  // namespace
}  // namespace teq::text
