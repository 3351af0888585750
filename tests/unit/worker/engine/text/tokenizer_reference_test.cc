#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "test_directory.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::text {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

using Ids = std::vector<std::int32_t>;

nlohmann::json ReadJson(const std::filesystem::path& file) {
  return nlohmann::json::parse(std::ifstream(file));
}

std::filesystem::path DemoModel() { return std::filesystem::path(TEQ_FIXTURES) / "demo-llama"; }

Ids EncodeWithSpecialTokens(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids = tokenizer.prefix();
  const auto encoded = tokenizer.Encode(text);
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  if (encoded.ok()) ids.insert(ids.end(), encoded->begin(), encoded->end());
  ids.insert(ids.end(), tokenizer.suffix().begin(), tokenizer.suffix().end());
  return ids;
}

// The first line of golden.json's text; its ids were made by an independent program.
TEST(TokenizerReferenceTest, DemoModelGivesItsRecordedIds) {
  const auto tokenizer = OpenTokenizer(DemoModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 2048);
  EXPECT_THAT((*tokenizer)->prefix(), ElementsAre(0));
  EXPECT_THAT((*tokenizer)->suffix(), IsEmpty());
  EXPECT_THAT(
      EncodeWithSpecialTokens(
          **tokenizer,
          "Now it came to pass in the days when the judges ruled, that there was "
          "a famine in the land. And a certain man of Bethlehemjudah went to "
          "sojourn in the country of Moab, he, and his wife, and his two sons.\n"),
      ElementsAreArray(Ids{0,   818, 354,  470, 291, 614,  288, 260,  679, 437,  260, 836, 282,
                           961, 658, 46,   299, 381, 373,  261, 933,  431, 288,  260, 494, 48,
                           570, 261, 1322, 403, 270, 1239, 328, 106,  484, 108,  461, 397, 537,
                           291, 527, 108,  477, 112, 288,  260, 1549, 270, 1520, 46,  310, 46,
                           269, 325, 966,  46,  269, 325,  696, 595,  48,  12}));
}

TEST(TokenizerReferenceTest, DemoModelGivesTheIdsOfItsGoldenFile) {
  const auto tokenizer = OpenTokenizer(DemoModel());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto golden = ReadJson(DemoModel() / "golden.json");
  EXPECT_EQ(EncodeWithSpecialTokens(**tokenizer, golden["text"].get<std::string>()),
            golden["input_ids"].get<Ids>());
}

// Every stage of a tokenizer.json, against the reference implementation; reference_ids.json says
// how its ids were made.
TEST(TokenizerReferenceTest, EveryStageGivesTheIdsOfTheReferenceImplementation) {
  const auto reference = ReadJson(TEQ_REFERENCE_IDS);
  ASSERT_GT(reference["cases"].size(), 40);
  const TestDirectory directory;
  for (const auto& test_case : reference["cases"]) {
    const std::string base = test_case["base"];
    nlohmann::json file =
        base == "demo" ? ReadJson(DemoModel() / "tokenizer.json") : reference["bases"][base];
    file.merge_patch(test_case["patch"]);
    directory.Write("tokenizer.json", file.dump());
    const auto tokenizer = OpenTokenizer(directory.path());
    ASSERT_TRUE(tokenizer.ok()) << test_case["name"] << ": " << tokenizer.status();
    for (const auto& text : test_case["texts"]) {
      EXPECT_EQ(EncodeWithSpecialTokens(**tokenizer, text["text"].get<std::string>()),
                text["ids"].get<Ids>())
          << test_case["name"] << ": " << text["text"];
    }
  }
}

TEST(TokenizerReferenceTest, LongWordTakesNoQuadraticTime) {
  // Metaspace BPE without a pre-tokenizer takes a whole text as one word; the test's own time limit
  // is what a quadratic merge loop would break.
  const auto reference = ReadJson(TEQ_REFERENCE_IDS);
  const TestDirectory directory;
  directory.Write("tokenizer.json", reference["bases"]["metaspace_bytes"].dump());
  const auto tokenizer = OpenTokenizer(directory.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto once = (*tokenizer)->Encode("and the spirit of light ");
  ASSERT_TRUE(once.ok()) << once.status();
  std::string text;
  Ids expected;
  while (text.size() < 1'000'000) {
    text += "and the spirit of light ";
    // No merge crosses words; the last id is the space's, which begins the next word.
    expected.insert(expected.end(), once->begin(), once->end() - 1);
  }
  expected.push_back(once->back());
  const auto ids = (*tokenizer)->Encode(text);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*ids, expected);
}

}  // namespace
}  // namespace teq::text
