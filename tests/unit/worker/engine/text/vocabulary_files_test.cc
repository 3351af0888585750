#include "worker/engine/text/vocabulary_files.h"

#include <string>
#include <string_view>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "test_directory.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class VocabularyFilesTest : public ::testing::Test {
 protected:
  VocabularyFilesTest() {
    directory_.Write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "\u0120": 3, "\u0120ab": 4,
                                       "</s>": 5, "<|endoftext|>": 6})");
    directory_.Write("merges.txt", "#version: 0.2\na b\n\u0120 ab\n");
    directory_.Write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  }

  void ExpectInvalid(std::string_view part) {
    const auto tokenizer = OpenTokenizer(directory_.path());
    EXPECT_EQ(ErrorReason(tokenizer.status()), "INVALID_TOKENIZER") << part;
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(std::string(part)));
  }

  TestDirectory directory_;
};

TEST_F(VocabularyFilesTest, WordsAreMergedAndTheEndTokenFound) {
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("ab ab<|endoftext|>a");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, ElementsAre(2, 4, 6, 0));
}

TEST_F(VocabularyFilesTest, ConfigAddsWhatOptAdds) {
  directory_.Write("tokenizer_config.json",
                   R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true,
                       "bos_token": {"content": "</s>"}, "add_prefix_space": true})");
  directory_.Write("added_tokens.json", R"({"<tool>": 7})");
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->prefix(), ElementsAre(5));
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 8);
  const auto ids = (*tokenizer)->Encode("ab<tool></s>");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, ElementsAre(4, 7, 5));
}

TEST_F(VocabularyFilesTest, EndTokenOfTheClassIsTextWhereTheConfigNamesItsOwn) {
  directory_.Write("tokenizer_config.json",
                   R"({"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>",
                       "eos_token": "</s>", "unk_token": "</s>"})");
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("ab<|endoftext|></s>a");
  ASSERT_TRUE(ids.ok()) << ids.status();
  // None of its letters is in the vocabulary.
  EXPECT_THAT(*ids, ElementsAre(2, 5, 0));
}

TEST_F(VocabularyFilesTest, OtherTokenizersOfTheSameFilesAreRefused) {
  directory_.Write("tokenizer_config.json", R"({"tokenizer_class": "CLIPTokenizer"})");
  ExpectInvalid("tokenizer_class CLIPTokenizer is not supported with vocab.json and merges.txt");
  directory_.Write("tokenizer_config.json", "{}");
  directory_.Write("config.json", R"({"model_type": "roberta"})");
  ExpectInvalid("of a model of type roberta are not read; supported: gpt2");
  directory_.Write("config.json", R"({"model_type": "gpt2"})");
  EXPECT_TRUE(OpenTokenizer(directory_.path()).ok());
}

TEST_F(VocabularyFilesTest, BrokenFilesAreRefused) {
  directory_.Write("merges.txt", "#version: 0.2\na x\n");
  ExpectInvalid("vocab.json and merges.txt: model.merges[1] needs \"x\"");
  directory_.Write("merges.txt", "a b c\n");
  ExpectInvalid("must be two parts");
  directory_.Write("vocab.json", "[]");
  ExpectInvalid("vocab.json is array; it must be an object");
  directory_.Write("vocab.json", "{");
  ExpectInvalid("vocab.json is not JSON");
}

}  // namespace
}  // namespace teq::text
