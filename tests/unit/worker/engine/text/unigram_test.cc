#include "worker/engine/text/unigram.h"

#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"

namespace teq::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Json = nlohmann::json;

constexpr std::string_view kModel = R"({"type": "Unigram", "unk_id": 0, "vocab": [
    ["<unk>", 0], ["a", -1], ["b", -2], ["ab", -2.5], ["abc", -9], ["c", -3]]})";

class UnigramTest : public ::testing::Test {
 protected:
  absl::StatusOr<Unigram> Parse(std::string_view patch = "{}") {
    model_ = Json::parse(kModel);
    model_.merge_patch(Json::parse(patch));
    return Unigram::Parse(JsonPart(model_, "tokenizer.json: model"));
  }

  std::vector<std::int32_t> Ids(std::string_view word, std::string_view patch = "{}") {
    const auto unigram = Parse(patch);
    EXPECT_TRUE(unigram.ok()) << unigram.status();
    std::vector<std::int32_t> ids;
    if (unigram.ok()) {
      const auto status = unigram->Encode(word, ids);
      EXPECT_TRUE(status.ok()) << status;
    }
    return ids;
  }

  void ExpectInvalid(std::string_view patch, std::string_view part) {
    const auto unigram = Parse(patch);
    EXPECT_EQ(ErrorReason(unigram.status()), "INVALID_TOKENIZER") << part;
    EXPECT_THAT(std::string(unigram.status().message()), HasSubstr(std::string(part)));
  }

  Json model_;
};

TEST_F(UnigramTest, PiecesOfTheLargestSumAreTaken) {
  EXPECT_THAT(Ids("ab"), ElementsAre(3));      // -2.5 above -1 - 2
  EXPECT_THAT(Ids("abc"), ElementsAre(3, 5));  // -5.5 above -9 and -6
  EXPECT_THAT(Ids("ba"), ElementsAre(2, 1));
  EXPECT_THAT(Ids(""), IsEmpty());
}

TEST_F(UnigramTest, NeighboursThatAreUnknownAreOneToken) {
  EXPECT_THAT(Ids("axyb"), ElementsAre(1, 0, 2));
  EXPECT_THAT(Ids("\u65e5a\u672c"), ElementsAre(0, 1, 0));
}

TEST_F(UnigramTest, UnknownCharactersAreBytesWhereTheVocabularyHasThem) {
  constexpr std::string_view kBytes = R"({"byte_fallback": true, "vocab": [
      ["<unk>", 0], ["a", -1], ["<0x78>", 0], ["<0x79>", 0]]})";
  EXPECT_THAT(Ids("axya", kBytes), ElementsAre(1, 2, 3, 1));
  // All or nothing: z has no byte.
  EXPECT_THAT(Ids("axza", kBytes), ElementsAre(1, 0, 1));
}

TEST_F(UnigramTest, CharacterWithoutAnyIdIsNamed) {
  const auto unigram = Parse(R"({"unk_id": null})");
  ASSERT_TRUE(unigram.ok()) << unigram.status();
  std::vector<std::int32_t> ids;
  const auto status = unigram->Encode("a\u00e9", ids);
  EXPECT_EQ(ErrorReason(status), "INVALID_TOKENIZER");
  EXPECT_THAT(std::string(status.message()), HasSubstr("the text's character \"\u00e9\""));
}

TEST_F(UnigramTest, BrokenVocabulariesAreRefused) {
  ExpectInvalid(R"({"vocab": []})", "model.vocab is empty");
  ExpectInvalid(R"({"vocab": {"a": 1}})", "model.vocab is object; it must be a list");
  ExpectInvalid(R"({"vocab": [["a"]]})", "model.vocab[0] must be a piece and its score");
  ExpectInvalid(R"({"vocab": [["a", "b"]]})", "model.vocab[0][1] is \"b\"; it must be a number");
  ExpectInvalid(R"({"vocab": [["a", 0], ["a", 1]]})", "model.vocab[1] is \"a\", as model.vocab[0]");
  ExpectInvalid(R"({"unk_id": 6})", "model.unk_id is 6; model.vocab has 6 pieces");
}

}  // namespace
}  // namespace teq::text
