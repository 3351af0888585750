#include "worker/engine/text/windows.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "byte_tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "test_directory.h"

namespace teq::text {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class WindowsTest : public ::testing::Test {
 protected:
  absl::StatusOr<Windows> Evaluation(std::string_view name, std::string_view bytes,
                                     std::int64_t length, std::int64_t vocabulary_size = 302) {
    return ReadEvaluationWindows(directory_.Write(name, bytes), tokenizer_, vocabulary_size,
                                 length);
  }

  void ExpectInvalid(std::string_view name, std::string_view bytes, std::string_view part) {
    const auto windows = Evaluation(name, bytes, 2);
    EXPECT_EQ(windows.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ErrorReason(windows.status()), "INVALID_TEXT") << part;
    EXPECT_THAT(std::string(windows.status().message()), HasSubstr(std::string(part)));
  }

  TestDirectory directory_;
  ByteTokenizer tokenizer_;
};

TEST_F(WindowsTest, TextIsCutIntoWindowsAndItsTailDropped) {
  const auto windows = Evaluation("t.txt", "abcdefg", 3);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 2);
  EXPECT_EQ(windows->length, 3);
  EXPECT_THAT(windows->ids, ElementsAre(300, 'a', 'b', 'c', 'd', 'e'));
}

TEST_F(WindowsTest, TextThatFillsItsWindowsLosesNothing) {
  const auto windows = Evaluation("t.txt", "abcde", 3);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 2);
}

TEST_F(WindowsTest, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto windows = Evaluation("t.txt", "\xff", 4);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_THAT(windows->ids, ElementsAre(300, 0xef, 0xbf, 0xbd));
}

TEST_F(WindowsTest, LineEndsAreKeptAsTheyAre) {
  const auto windows = Evaluation("t.txt", "\r\n", 3);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_THAT(windows->ids, ElementsAre(300, '\r', '\n'));
}

TEST_F(WindowsTest, LinesOfTextAreTextsOfTheirOwnInOneStream) {
  const auto windows =
      Evaluation("t.jsonl", "{\"text\": \"ab\"}\n\n{\"text\": \"c\\u00e9\", \"id\": 7}\r\n", 3);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 2);
  EXPECT_THAT(windows->ids, ElementsAre(300, 'a', 'b', 300, 'c', 0xc3));
}

// Gemma predicts nothing without its BOS.
TEST_F(WindowsTest, EveryWindowMayBeginWithThePrefix) {
  const auto windows =
      ReadEvaluationWindows(directory_.Write("t.txt", "abcdefgh"), tokenizer_, 302, 4,
                            /*prefix_in_every_window=*/true);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 2);
  // The text goes on where it ended, and its tail is dropped.
  EXPECT_THAT(windows->ids, ElementsAre(300, 'a', 'b', 'c', 300, 'd', 'e', 'f'));
}

TEST_F(WindowsTest, TextThatBeginsWithAWindowHasOnePrefix) {
  const auto windows = ReadEvaluationWindows(
      directory_.Write("t.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"c\"}\n{\"text\": \"def\"}\n"),
      tokenizer_, 302, 3, /*prefix_in_every_window=*/true);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_THAT(windows->ids, ElementsAre(300, 'a', 'b', 300, 'c', 300, 300, 'd', 'e'));
}

TEST_F(WindowsTest, PrefixStandsBeforeNoWindowOfIds) {
  const auto windows =
      ReadEvaluationWindows(directory_.Write("t.jsonl", "{\"input_ids\": [1, 2, 3]}"), tokenizer_,
                            302, 2, /*prefix_in_every_window=*/true);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_THAT(windows->ids, ElementsAre(1, 2));
}

TEST_F(WindowsTest, WindowWithoutRoomBehindThePrefixIsRefused) {
  const auto windows = ReadEvaluationWindows(directory_.Write("t.txt", "abc"), tokenizer_, 302, 1,
                                             /*prefix_in_every_window=*/true);
  EXPECT_EQ(ErrorReason(windows.status()), "INVALID_SPEC");
  EXPECT_THAT(std::string(windows.status().message()),
              HasSubstr("begins with the tokenizer's 1 special tokens"));
}

TEST_F(WindowsTest, LineOfIdsIsAWindowCutToTheLength) {
  const auto windows = Evaluation("t.jsonl",
                                  "{\"input_ids\": [1, 2, 3]}\n"
                                  "{\"input_ids\": [4]}\n"
                                  "{\"input_ids\": [5, 301]}",
                                  2);
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(windows->count, 2);
  EXPECT_THAT(windows->ids, ElementsAre(1, 2, 5, 301));
  EXPECT_EQ(windows->short_lines, 1);
}

TEST_F(WindowsTest, TextTooShortForOneWindowSaysWhatItHasAndNeeds) {
  for (const auto& [name, bytes, found] :
       {std::tuple("t.txt", "abc", "has 4 tokens"), std::tuple("e.txt", "", "has 0 tokens"),
        std::tuple("t.jsonl", "{\"text\": \"abc\"}", "has 4 tokens"),
        std::tuple("i.jsonl", "{\"input_ids\": [1, 2]}", "has 2 tokens in its longest line"),
        std::tuple("e.jsonl", "\n", "has 0 tokens")}) {
    const auto windows = Evaluation(name, bytes, 5);
    EXPECT_EQ(windows.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ErrorReason(windows.status()), "TEXT_TOO_SHORT") << name;
    EXPECT_THAT(std::string(windows.status().message()), HasSubstr(found));
    EXPECT_THAT(std::string(windows.status().message()), HasSubstr("one window needs 5"));
  }
}

TEST_F(WindowsTest, MissingFileIsNotFound) {
  const auto windows = ReadEvaluationWindows(directory_.path() / "absent.txt", tokenizer_, 302, 2);
  EXPECT_EQ(windows.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(windows.status()), "TEXT_NOT_FOUND");
  EXPECT_THAT(std::string(windows.status().message()), HasSubstr("absent.txt"));
}

TEST_F(WindowsTest, DirectoryIsNoText) {
  const auto windows = ReadEvaluationWindows(directory_.path(), tokenizer_, 302, 2);
  EXPECT_EQ(ErrorReason(windows.status()), "INVALID_TEXT");
  EXPECT_THAT(std::string(windows.status().message()), HasSubstr("is a directory"));
}

TEST_F(WindowsTest, FileThatIsNoTextIsRefused) {
  std::string compressed = "\x1f\x8b\x08";
  for (int i = 0; i < 1000; ++i) compressed += static_cast<char>(i * i * 31 / 7);
  ExpectInvalid("t.txt.gz", compressed, "t.txt.gz: is no text: of its first 1003 bytes, ");
  std::string utf16;
  for (const char c : std::string_view("a text in another encoding")) utf16 += {c, '\0'};
  ExpectInvalid("t.txt", utf16, "26 are NUL or not UTF-8; give UTF-8 text");
  // A few stray bytes are no reason.
  EXPECT_TRUE(Evaluation("t.txt", std::string(500, 'a') + std::string(20, '\xff'), 2).ok());
}

TEST_F(WindowsTest, PipeIsNoText) {
  const auto pipe = directory_.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const auto windows = ReadEvaluationWindows(pipe, tokenizer_, 302, 2);
  EXPECT_EQ(ErrorReason(windows.status()), "INVALID_TEXT");
  EXPECT_THAT(std::string(windows.status().message()), HasSubstr("is no regular file"));
}

TEST_F(WindowsTest, BadLineIsNamedByItsNumber) {
  ExpectInvalid("t.jsonl", "{\"text\": \"a\"}\nnonsense\n", "t.jsonl:2: is not JSON, at its byte");
  ExpectInvalid("t.jsonl", "\n[1]\n", "t.jsonl:2: must be an object with either");
  ExpectInvalid("t.jsonl", "{}", "t.jsonl:1: must be an object with either");
  ExpectInvalid("t.jsonl", R"({"text": "a", "input_ids": [1]})", "either text or input_ids");
  ExpectInvalid("t.jsonl", R"({"text": "a", "text": "b"})", "has the key \"text\" twice");
  ExpectInvalid("t.jsonl", R"({"text": 1})", "t.jsonl:1: text is not a string");
  ExpectInvalid("t.jsonl", R"({"input_ids": "1 2"})", "t.jsonl:1: input_ids is not a list");
  ExpectInvalid("t.jsonl", "{\"text\": \"a\"}\n{\"input_ids\": [1, 2]}",
                "t.jsonl:2: lines with text");
  ExpectInvalid("t.jsonl", "{\"input_ids\": [1]}\n{\"text\": \"abc\"}",
                "t.jsonl:2: lines with text");
  ExpectInvalid("t.jsonl", std::string(1000, '[') + std::string(1000, ']'), "nested deeper");
}

TEST_F(WindowsTest, IdOutsideTheVocabularyIsNamed) {
  ExpectInvalid("t.jsonl", R"({"input_ids": [1, 302]})", "t.jsonl:1: input_ids holds 302");
  ExpectInvalid("t.jsonl", R"({"input_ids": [-1, 2]})", "input_ids holds -1");
  ExpectInvalid("t.jsonl", R"({"input_ids": [1.5, 2]})", "input_ids holds 1.5");
  ExpectInvalid("t.jsonl", R"({"input_ids": [null, 2]})", "input_ids holds null");
  ExpectInvalid("t.jsonl", R"({"input_ids": [18446744073709551615, 2]})",
                "holds 18446744073709551615");
}

TEST_F(WindowsTest, TokenizerOfALargerVocabularyThanTheModelsIsRefused) {
  const auto windows = Evaluation("t.txt", "abc", 2, 300);
  EXPECT_EQ(ErrorReason(windows.status()), "INVALID_TEXT");
  EXPECT_THAT(std::string(windows.status().message()),
              HasSubstr("the tokenizer gives the id 300, but the model has only 300 tokens"));
}

// A tokenizer that no text suits.
class FailingTokenizer : public ByteTokenizer {
 public:
  absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view /*text*/) const override {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TOKENIZER", "matching failed");
  }
};

TEST_F(WindowsTest, TextThatCannotBeTokenizedIsNamed) {
  for (const auto& [name, bytes, where] :
       {std::tuple("t.txt", "abc", "t.txt: matching failed"),
        std::tuple("t.jsonl", "\n{\"text\": \"abc\"}", "t.jsonl:2: matching failed")}) {
    const auto windows =
        ReadEvaluationWindows(directory_.Write(name, bytes), FailingTokenizer(), 302, 2);
    EXPECT_EQ(ErrorReason(windows.status()), "INVALID_TOKENIZER");
    EXPECT_THAT(std::string(windows.status().message()), HasSubstr(where));
  }
}

TEST_F(WindowsTest, LengthMustBePositive) {
  EXPECT_EQ(ErrorReason(Evaluation("t.txt", "abc", 0).status()), "INVALID_SPEC");
}

class CalibrationTest : public WindowsTest {
 protected:
  std::vector<std::int32_t> Chosen(std::int64_t samples, std::int64_t seed) {
    std::string bytes;
    for (int i = 1; i < 100; ++i) bytes += static_cast<char>(i);
    const auto windows = ReadCalibrationWindows(directory_.Write("t.txt", bytes), tokenizer_, 302,
                                                /*length=*/1, samples, seed);
    EXPECT_TRUE(windows.ok()) << windows.status();
    if (!windows.ok()) return {};
    EXPECT_EQ(windows->count, static_cast<std::int64_t>(windows->ids.size()));
    return windows->ids;
  }
};

TEST_F(CalibrationTest, SamplesAreDifferentWindowsInTheOrderOfTheText) {
  std::vector<std::int32_t> ids = Chosen(50, 1);
  ASSERT_EQ(ids.size(), 50);
  EXPECT_EQ(std::set<std::int32_t>(ids.begin(), ids.end()).size(), 50);
  // The first window holds the prefix.
  if (ids.front() == 300) ids.erase(ids.begin());
  EXPECT_TRUE(std::ranges::is_sorted(ids));
}

TEST_F(CalibrationTest, SeedDecidesTheChoice) {
  EXPECT_EQ(Chosen(20, 1), Chosen(20, 1));
  EXPECT_NE(Chosen(20, 1), Chosen(20, 2));
}

// The choice is part of what makes a run repeatable: worked out by a Python program with its own
// MT19937-64 (the recurrence of Matsumoto and Nishimura), rejection and partial Fisher-Yates.
TEST_F(CalibrationTest, ChoiceIsTheSameOnEveryMachine) {
  EXPECT_THAT(Chosen(5, 42), ElementsAreArray(std::vector<std::int32_t>{6, 16, 57, 78, 98}));
}

TEST_F(CalibrationTest, EveryChosenWindowMayBeginWithThePrefix) {
  const auto file = directory_.Write("t.txt", std::string(100, 'a'));
  const auto windows = ReadCalibrationWindows(file, tokenizer_, 302, /*length=*/2, 20, 1,
                                              /*prefix_in_every_window=*/true);
  ASSERT_TRUE(windows.ok()) << windows.status();
  ASSERT_EQ(windows->count, 20);
  for (std::size_t i = 0; i < windows->ids.size(); i += 2) {
    EXPECT_EQ(windows->ids[i], 300);
    EXPECT_EQ(windows->ids[i + 1], 'a');
  }
}

TEST_F(CalibrationTest, FewerWindowsThanSamplesAreAllTaken) {
  EXPECT_EQ(Chosen(100, 3).size(), 100);
  EXPECT_EQ(Chosen(1000, 3).size(), 100);
}

}  // namespace
}  // namespace teq::text
