#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "test_directory.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::text {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Ids = std::vector<std::int32_t>;

// Lines of a small made-up language, enough for a vocabulary of a few hundred pieces.
std::string Corpus() {
  constexpr std::string_view kWords[] = {"light",  "lighter",   "dark",    "darkness",
                                         "water",  "waters",    "earth",   "heaven",
                                         "spirit", "caf\u00e9", "morning", "evening"};
  std::string corpus;
  for (std::size_t i = 0; i < 600; ++i) {
    corpus += fmt::format("the {} and the {} of {} were {}, 12.\n", kWords[i % 12],
                          kWords[(i * 5 + i / 12) % 12], kWords[(i * 7 + 3) % 12], i * 37 % 1000);
  }
  return corpus;
}

class SentencePieceTokenizerTest : public ::testing::Test {
 protected:
  // Debian's spm_train makes the model.
  void Train(std::string_view options) {
    directory_.Write("corpus.txt", Corpus());
    const std::string command = fmt::format(
        "cd '{}' && spm_train --input=corpus.txt --model_prefix=tokenizer --minloglevel=2 "
        "--hard_vocab_limit=false {} >/dev/null 2>train.log",
        directory_.path().string(), options);
    ASSERT_EQ(std::system(command.c_str()), 0) << command;  // NOLINT(cert-env33-c)
  }
  void TrainLlamaLike() {
    Train(
        "--model_type=bpe --vocab_size=400 --byte_fallback=true "
        "--normalization_rule_name=identity --remove_extra_whitespaces=false");
  }

  // What Debian's spm_encode prints for each line.
  std::vector<Ids> ReferenceIds(const std::vector<std::string>& lines,
                                std::string_view model = "tokenizer.model") {
    std::string text;
    for (const auto& line : lines) text += line + "\n";
    directory_.Write("lines.txt", text);
    const std::string command =
        fmt::format("cd '{}' && spm_encode --model={} --output_format=id lines.txt >ids.txt",
                    directory_.path().string(), model);
    EXPECT_EQ(std::system(command.c_str()), 0) << command;  // NOLINT(cert-env33-c)
    std::vector<Ids> all;
    std::ifstream stream(directory_.path() / "ids.txt");
    for (std::string line; std::getline(stream, line);) {
      std::istringstream numbers(line);
      Ids ids;
      for (std::int32_t id = 0; numbers >> id;) ids.push_back(id);
      all.push_back(ids);
    }
    return all;
  }

  void ExpectReferenceIds() {
    const std::vector<std::string> lines = {
        "the light and the darkness of heaven were 37, 12.",
        "  two  spaces ",
        "caf\u00e9 cafe\u0301 \u65e5\u672c \U0001F600",
        "\uff11\uff12 \ufb01 \t tab",
        "unseen WORDS!",
        "",
        "<s> and </s> and <unk>",
    };
    const auto tokenizer = OpenTokenizer(directory_.path());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto expected = ReferenceIds(lines);
    ASSERT_EQ(expected.size(), lines.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const auto ids = (*tokenizer)->Encode(lines[i]);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, expected[i]) << lines[i];
    }
  }

  TestDirectory directory_;
};

TEST_F(SentencePieceTokenizerTest, BpeModelGivesTheIdsOfSentencePiece) {
  TrainLlamaLike();
  ExpectReferenceIds();
}

TEST_F(SentencePieceTokenizerTest, UnigramModelWithNormalizationGivesTheIdsOfSentencePiece) {
  Train("--model_type=unigram --vocab_size=200");
  ExpectReferenceIds();
}

TEST_F(SentencePieceTokenizerTest, BosStandsFirstUnlessTheConfigSaysOtherwise) {
  TrainLlamaLike();
  const auto by_default = OpenTokenizer(directory_.path());
  ASSERT_TRUE(by_default.ok()) << by_default.status();
  EXPECT_THAT((*by_default)->prefix(), ElementsAre(1));
  EXPECT_THAT((*by_default)->suffix(), IsEmpty());
  directory_.Write("tokenizer_config.json",
                   R"({"add_bos_token": false, "add_eos_token": true, "eos_token": "</s>"})");
  const auto configured = OpenTokenizer(directory_.path());
  ASSERT_TRUE(configured.ok()) << configured.status();
  EXPECT_THAT((*configured)->prefix(), IsEmpty());
  EXPECT_THAT((*configured)->suffix(), ElementsAre(2));
}

TEST_F(SentencePieceTokenizerTest, LineFeedIsAByteOfItsOwn) {
  TrainLlamaLike();
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("light\ndark");
  ASSERT_TRUE(ids.ok()) << ids.status();
  // <unk>, <s> and </s> come first, then the 256 bytes.
  EXPECT_THAT(*ids, Contains(3 + '\n').Times(1));
}

TEST_F(SentencePieceTokenizerTest, SpecialTokensAreRecognisedInsideText) {
  TrainLlamaLike();
  directory_.Write("tokenizer_config.json", R"({
      "bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>",
      "added_tokens_decoder": {"500": {"content": "<tool>"}}})");
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 501);
  const auto light = (*tokenizer)->Encode("light");
  const auto all = (*tokenizer)->Encode("light<s></s><tool>light<unk>");
  ASSERT_TRUE(light.ok() && all.ok());
  Ids expected = *light;
  expected.insert(expected.end(), {1, 2, 500});
  expected.insert(expected.end(), light->begin(), light->end());
  expected.push_back(0);
  EXPECT_EQ(*all, expected);
}

// As transformers' LlamaTokenizer, which switches the model's prefix space off and writes its own.
TEST_F(SentencePieceTokenizerTest, WithoutLegacyOnlyTheTextsStartGetsASpace) {
  TrainLlamaLike();
  std::ifstream stream(directory_.path() / "tokenizer.model", std::ios::binary);
  std::string model((std::istreambuf_iterator<char>(stream)), {});
  // normalizer_spec { add_dummy_prefix: false }, merged into the model's.
  model += std::string("\x1a\x02\x18\x00", 4);
  directory_.Write("plain.model", model);
  const Ids spaced = ReferenceIds({"light"}).at(0);
  const Ids plain = ReferenceIds({"light"}, "plain.model").at(0);
  ASSERT_NE(spaced, plain);

  const auto expect = [&](std::string_view config, const std::vector<Ids>& parts) {
    directory_.Write("tokenizer_config.json", config);
    const auto tokenizer = OpenTokenizer(directory_.path());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto ids = (*tokenizer)->Encode("light<s>light</s> light");
    ASSERT_TRUE(ids.ok()) << ids.status();
    Ids expected;
    for (const Ids& part : parts) expected.insert(expected.end(), part.begin(), part.end());
    EXPECT_EQ(*ids, expected) << config;
  };
  expect(R"({"bos_token": "<s>", "eos_token": "</s>", "legacy": false})",
         {spaced, {1}, plain, {2}, spaced});
  expect(R"({"bos_token": "<s>", "eos_token": "</s>", "legacy": false, "add_prefix_space": false})",
         {plain, {1}, plain, {2}, spaced});
  const Ids twice = ReferenceIds({" light"}).at(0);
  const std::vector<Ids> everywhere = {spaced, {1}, spaced, {2}, twice};
  expect(R"({"bos_token": "<s>", "eos_token": "</s>"})", everywhere);
  expect(R"({"bos_token": "<s>", "eos_token": "</s>", "legacy": true})", everywhere);
  // Of another class the flag says nothing.
  expect(R"({"bos_token": "<s>", "eos_token": "</s>", "legacy": false,
             "tokenizer_class": "GemmaTokenizer"})",
         everywhere);
}

TEST_F(SentencePieceTokenizerTest, BosMayBeAnAddedToken) {
  TrainLlamaLike();
  directory_.Write("tokenizer_config.json", R"({
      "bos_token": "<begin>", "add_eos_token": true, "eos_token": "<end>",
      "added_tokens_decoder": {"500": {"content": "<begin>"}, "501": {"content": "<end>"}}})");
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->prefix(), ElementsAre(500));
  EXPECT_THAT((*tokenizer)->suffix(), ElementsAre(501));
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 502);
}

TEST_F(SentencePieceTokenizerTest, InvalidUtf8IsReadAsReplacementCharacters) {
  TrainLlamaLike();
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto broken = (*tokenizer)->Encode("light\xff");
  const auto replaced = (*tokenizer)->Encode("light\ufffd");
  ASSERT_TRUE(broken.ok() && replaced.ok());
  EXPECT_EQ(*broken, *replaced);
}

TEST_F(SentencePieceTokenizerTest, ThreadsMayShareATokenizer) {
  TrainLlamaLike();
  const auto tokenizer = OpenTokenizer(directory_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto expected = (*tokenizer)->Encode("the light");
  ASSERT_TRUE(expected.ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        const auto ids = (*tokenizer)->Encode("the light");
        ASSERT_TRUE(ids.ok()) << ids.status();
        EXPECT_EQ(*ids, *expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(SentencePieceTokenizerTest, FileThatIsNoModelIsRefused) {
  for (const std::string& bytes :
       {std::string(), std::string("nonsense"), std::string(1000, '\xff')}) {
    directory_.Write("tokenizer.model", bytes);
    const auto tokenizer = OpenTokenizer(directory_.path());
    EXPECT_EQ(ErrorReason(tokenizer.status()), "INVALID_TOKENIZER");
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("tokenizer.model"));
  }
}

TEST_F(SentencePieceTokenizerTest, ConfigThatDisagreesWithTheModelIsRefused) {
  TrainLlamaLike();
  directory_.Write("tokenizer_config.json", R"({"bos_token": "<begin>"})");
  const auto no_bos = OpenTokenizer(directory_.path());
  EXPECT_EQ(ErrorReason(no_bos.status()), "INVALID_TOKENIZER");
  EXPECT_THAT(std::string(no_bos.status().message()), HasSubstr("the token \"<begin>\""));
  directory_.Write("tokenizer_config.json",
                   R"({"added_tokens_decoder": {"7": {"content": "</s>"}}})");
  const auto other_id = OpenTokenizer(directory_.path());
  EXPECT_EQ(ErrorReason(other_id.status()), "INVALID_TOKENIZER");
  EXPECT_THAT(std::string(other_id.status().message()),
              HasSubstr("gives \"</s>\" the id 7; tokenizer.model gives it 2"));
}

}  // namespace
}  // namespace teq::text
