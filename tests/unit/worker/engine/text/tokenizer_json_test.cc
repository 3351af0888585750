#include "worker/engine/text/tokenizer_json.h"

#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "test_directory.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::text {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Json = nlohmann::json;

// Letters a to d, and merges that make ab, cd, abcd and bc, in this order of rank.
constexpr std::string_view kTiny = R"({
  "added_tokens": [{"id": 8, "content": "<s>", "special": true}],
  "model": {"type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "ab": 4, "cd": 5, "abcd": 6, "bc": 7},
            "merges": ["a b", "c d", "ab cd", "b c"]}})";

class TokenizerJsonTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Tokenizer>> Open(std::string_view patch = "{}",
                                                  std::string_view config = "{}") {
    Json file = Json::parse(kTiny);
    file.merge_patch(Json::parse(patch));
    directory_.Write("tokenizer.json", file.dump());
    directory_.Write("tokenizer_config.json", config);
    return OpenTokenizer(directory_.path());
  }

  std::vector<std::int32_t> Ids(std::string_view text, std::string_view patch = "{}") {
    const auto tokenizer = Open(patch);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    if (!tokenizer.ok()) return {};
    const auto ids = (*tokenizer)->Encode(text);
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.ok() ? *ids : std::vector<std::int32_t>();
  }

  void ExpectInvalid(const absl::Status& status, std::string_view part) {
    EXPECT_EQ(ErrorReason(status), "INVALID_TOKENIZER") << part;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(directory_.path().string()), HasSubstr(std::string(part))));
  }
  void ExpectInvalid(std::string_view patch, std::string_view part) {
    ExpectInvalid(Open(patch).status(), part);
  }
  void ExpectInvalidFile(std::string_view bytes, std::string_view part) {
    directory_.Write("tokenizer.json", bytes);
    ExpectInvalid(OpenTokenizer(directory_.path()).status(), part);
  }

  TestDirectory directory_;
};

TEST_F(TokenizerJsonTest, PairsMergeByRankAndFromTheLeft) {
  EXPECT_THAT(Ids("abcd"), ElementsAre(6));
  EXPECT_THAT(Ids("abc"), ElementsAre(4, 2));  // a b before b c
  EXPECT_THAT(Ids("bcd"), ElementsAre(1, 5));  // c d before b c
  EXPECT_THAT(Ids("dbca"), ElementsAre(3, 7, 0));
  EXPECT_THAT(Ids("aab"), ElementsAre(0, 4));
  EXPECT_THAT(Ids("abcdabcd"), ElementsAre(6, 6));
  EXPECT_THAT(Ids(""), IsEmpty());
}

TEST_F(TokenizerJsonTest, CharacterOutsideTheVocabularyIsDroppedWithoutAnUnknownToken) {
  EXPECT_THAT(Ids("axb"), ElementsAre(4));
}

TEST_F(TokenizerJsonTest, AddedTokenIsRecognisedInsideText) {
  EXPECT_THAT(Ids("ab<s>cd"), ElementsAre(4, 8, 5));
  // Half a token is text, of which < and s are dropped.
  EXPECT_THAT(Ids("ab<scd"), ElementsAre(6));
}

TEST_F(TokenizerJsonTest, InvalidUtf8IsReadAsReplacementCharacters) {
  EXPECT_THAT(Ids("a\xff"
                  "b\xe6\x97",
                  R"({"model": {"vocab": {"\ufffd": 9}}})"),
              ElementsAre(0, 9, 1, 9));
}

TEST_F(TokenizerJsonTest, ModelWithoutATypeIsBpeWhereItHasMerges) {
  EXPECT_THAT(Ids("ab", R"({"model": {"type": null}})"), ElementsAre(4));
}

TEST_F(TokenizerJsonTest, NoDropoutMayBeWrittenAsZero) {
  EXPECT_THAT(Ids("ab", R"({"model": {"dropout": 0.0}})"), ElementsAre(4));
}

TEST_F(TokenizerJsonTest, ThreadsMayShareATokenizer) {
  const auto tokenizer = Open(R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s"},
                                  "behavior": "Removed", "invert": false}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&tokenizer] {
      for (int round = 0; round < 200; ++round) {
        const auto ids = (*tokenizer)->Encode("abcd ab<s>");
        ASSERT_TRUE(ids.ok());
        EXPECT_THAT(*ids, ElementsAre(6, 4, 8));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(TokenizerJsonTest, PostProcessorGivesPrefixAndSuffix) {
  const auto tokenizer = Open(R"({"post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}},
                 {"SpecialToken": {"id": "x", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [8]}, "x": {"id": "x", "ids": [0, 1]}}}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->prefix(), ElementsAre(8));
  EXPECT_THAT((*tokenizer)->suffix(), ElementsAre(0, 1));
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 9);
}

TEST_F(TokenizerJsonTest, ConfigDecidesWhereTheFileHasNoPostProcessor) {
  const auto with_both = Open("{}", R"({"add_bos_token": true, "bos_token": "<s>",
                                        "add_eos_token": true, "eos_token": {"content": "d"}})");
  ASSERT_TRUE(with_both.ok()) << with_both.status();
  EXPECT_THAT((*with_both)->prefix(), ElementsAre(8));
  EXPECT_THAT((*with_both)->suffix(), ElementsAre(3));
  const auto silent = Open("{}", R"({"bos_token": "<s>"})");
  ASSERT_TRUE(silent.ok()) << silent.status();
  EXPECT_THAT((*silent)->prefix(), IsEmpty());
  const auto llama = Open("{}", R"({"bos_token": "<s>", "tokenizer_class": "LlamaTokenizerFast"})");
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_THAT((*llama)->prefix(), ElementsAre(8));
}

TEST_F(TokenizerJsonTest, ConfigsFlagsReplaceThePostProcessor) {
  constexpr std::string_view kTemplate = R"({"post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [8]}}}})";
  const auto without = Open(kTemplate, R"({"add_bos_token": false, "bos_token": "<s>"})");
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_THAT((*without)->prefix(), IsEmpty());
  const auto silent = Open(kTemplate, R"({"bos_token": "<s>"})");
  ASSERT_TRUE(silent.ok()) << silent.status();
  EXPECT_THAT((*silent)->prefix(), ElementsAre(8));
  // By class: Llama's makes a post-processor of the flags, Qwen's and the general one do not.
  for (const auto& [name, adds] : std::map<std::string, bool>{{"LlamaTokenizerFast", false},
                                                              {"GPTNeoXTokenizer", false},
                                                              {"PreTrainedTokenizerFast", true},
                                                              {"Qwen2Tokenizer", true}}) {
    const auto named = Open(kTemplate, R"({"add_bos_token": false, "bos_token": "<s>",
                                           "tokenizer_class": ")" +
                                           name + "\"}");
    ASSERT_TRUE(named.ok()) << named.status();
    EXPECT_EQ(!(*named)->prefix().empty(), adds) << name;
  }
}

// LlamaTokenizerFast makes a post-processor of its own whether the config has flags or not.
TEST_F(TokenizerJsonTest, ClassThatAddsBosReplacesThePostProcessorWithoutFlags) {
  constexpr std::string_view kByteLevel = R"({"post_processor": {"type": "ByteLevel"}})";
  for (const auto& [config, adds] : std::map<std::string, bool>{
           {R"({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"})", true},
           {R"({"tokenizer_class": "LlamaTokenizerFast"})", true},
           {R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false})", false},
           // Its bos is <bos>, which the vocabulary lacks.
           {R"({"tokenizer_class": "GemmaTokenizer"})", false},
           {R"({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"})", false},
           {R"({"tokenizer_class": "GPTNeoXTokenizer", "bos_token": "<s>"})", false}}) {
    const auto tokenizer = Open(kByteLevel, config);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ(!(*tokenizer)->prefix().empty(), adds) << config;
  }
  // Llama 3 has the general class, and its BOS from the file.
  const auto general = Open(R"({"post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [8]}}}})",
                            R"({"tokenizer_class": "PreTrainedTokenizerFast"})");
  ASSERT_TRUE(general.ok()) << general.status();
  EXPECT_THAT((*general)->prefix(), ElementsAre(8));
}

TEST_F(TokenizerJsonTest, AddedTokensAreBeyondTheBaseVocabulary) {
  const auto tokenizer = Open(R"({"added_tokens": [{"id": 9, "content": "<image>"}]})", "{}");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 10);
  EXPECT_LT((*tokenizer)->base_vocabulary_size(), 10);
}

TEST_F(TokenizerJsonTest, BosThatTheVocabularyLacksIsRefused) {
  ExpectInvalid(Open("{}", R"({"add_bos_token": true, "bos_token": "<bos>"})").status(),
                "add_bos_token asks for the token \"<bos>\"");
  ExpectInvalid(Open("{}", R"({"add_bos_token": true})").status(), "the token \"\"");
}

TEST_F(TokenizerJsonTest, DirectoryWithoutATokenizerIsNotFound) {
  const auto tokenizer = OpenTokenizer(directory_.path());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  ExpectInvalid(
      tokenizer.status(),
      "holds neither tokenizer.json, nor tokenizer.model, nor vocab.json with merges.txt; "
      "copy the tokenizer's files");
  directory_.Write("vocab.json", "{}");
  ExpectInvalid(OpenTokenizer(directory_.path()).status(), "(only vocab.json)");
}

TEST_F(TokenizerJsonTest, PartsThatAreNotSupportedAreNamed) {
  ExpectInvalid(R"({"model": {"type": "WordPiece"}})",
                "tokenizer.json: model.type WordPiece is not supported; supported: BPE, Unigram");
  ExpectInvalid(R"({"model": {"type": "WordLevel"}})", "model.type WordLevel is not supported");
  ExpectInvalid(R"({"model": {"continuing_subword_prefix": "##"}})",
                "model.continuing_subword_prefix \"##\" is not supported");
  ExpectInvalid(R"({"model": {"end_of_word_suffix": "</w>"}})",
                "model.end_of_word_suffix \"</w>\" is not supported");
  ExpectInvalid(R"({"model": {"dropout": 0.1}})", "model.dropout makes ids random");
  ExpectInvalid(R"({"normalizer": {"type": "BertNormalizer"}})",
                "normalizer.type BertNormalizer is not supported; supported: Sequence, Prepend");
  ExpectInvalid(R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}]}})",
                "normalizer.normalizers[0].type Nmt is not supported");
  ExpectInvalid(R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})",
                "pre_tokenizer.type BertPreTokenizer is not supported");
  ExpectInvalid(R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"},
                   "behavior": "Sideways"}})",
                "pre_tokenizer.behavior Sideways is not supported; supported: Removed");
  ExpectInvalid(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_",
                   "prepend_scheme": "last"}})",
                "pre_tokenizer.prepend_scheme last is not supported");
  ExpectInvalid(R"({"post_processor": {"type": "Magic"}})", "post_processor.type Magic");
}

TEST_F(TokenizerJsonTest, PartsThatContradictThemselvesAreRefused) {
  ExpectInvalid(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_",
                   "prepend_scheme": "always", "add_prefix_space": false}})",
                "but add_prefix_space is false");
  ExpectInvalid(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}})",
                "must be one character");
  ExpectInvalid(R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("},
                   "behavior": "Removed"}})",
                "pre_tokenizer.pattern the pattern ( does not compile");
  ExpectInvalid(R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": ""}}})", "is empty");
  ExpectInvalid(R"({"post_processor": {"type": "TemplateProcessing", "single": []}})",
                "single has no Sequence");
  ExpectInvalid(R"({"post_processor": {"type": "TemplateProcessing",
                   "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}})",
                "special_tokens.<s>.ids is missing");
  ExpectInvalid(R"({"post_processor": {"type": "TemplateProcessing",
                   "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
                   "special_tokens": {"x": {"ids": [99]}}}})",
                "adds the id 99; the vocabulary's ids are below 9");
}

TEST_F(TokenizerJsonTest, MatchingThatFailsNamesThePattern) {
  for (const auto& [patch, place] : std::map<std::string, std::string>{
           {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"},
                "behavior": "Isolated"}})",
            "tokenizer.json: pre_tokenizer.pattern: matching failed at byte 0"},
           {R"({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}})",
            "tokenizer.json: normalizer.pattern: matching failed at byte 0"}}) {
    const auto tokenizer = Open(patch);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto ids = (*tokenizer)->Encode(std::string(64, 'a') + "b");
    EXPECT_EQ(ErrorReason(ids.status()), "INVALID_TOKENIZER");
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr(place));
  }
}

TEST_F(TokenizerJsonTest, IdsMayHaveGaps) {
  const auto tokenizer = Open(R"({"model": {"vocab": {"z": 100}}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 101);
}

TEST_F(TokenizerJsonTest, VocabularyWithDuplicatesIsRefused) {
  ExpectInvalidFile(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})",
                    "tokenizer.json has the key \"a\" twice in one object");
  ExpectInvalid(R"({"model": {"vocab": {"bc": 6}}})",
                "tokens \"abcd\" and \"bc\" have the same id 6");
  ExpectInvalid(R"({"added_tokens": [{"id": 3, "content": "<s>"}]})",
                "tokens \"<s>\" and \"d\" have the same id 3");
  ExpectInvalid(R"({"added_tokens": [{"id": 3, "content": "a"}]})",
                "gives \"a\" the id 3; model.vocab gives it 0");
  ExpectInvalid(R"({"model": {"vocab": {"a": -1}}})", "model.vocab.a is -1; it must be a token id");
  ExpectInvalid(R"({"model": {"vocab": {"a": 4294967296}}})", "is 4294967296");
  ExpectInvalid(R"({"model": {"vocab": {"a": 1.5}}})", "model.vocab.a is 1.5");
  ExpectInvalid(R"({"model": {"vocab": {"a": "0"}}})", "model.vocab.a is \"0\"");
}

TEST_F(TokenizerJsonTest, MergeThatTheVocabularyDoesNotHoldIsRefused) {
  ExpectInvalid(R"({"model": {"merges": ["a b", "x b"]}})",
                "model.merges[1] needs \"x\", which is not in model.vocab");
  ExpectInvalid(R"({"model": {"merges": [["a", "x"]]}})", "model.merges[0] needs \"x\"");
  ExpectInvalid(R"({"model": {"merges": ["a c"]}})", "model.merges[0] needs \"ac\"");
  ExpectInvalid(R"({"model": {"merges": ["ab"]}})", "must be two parts");
  ExpectInvalid(R"({"model": {"merges": ["a b c"]}})", "must be two parts");
  ExpectInvalid(R"({"model": {"merges": [["a"]]}})", "must have two parts");
  ExpectInvalid(R"({"model": {"merges": [1]}})", "model.merges[0] is 1; it must be a string");
  ExpectInvalid(R"({"model": {"merges": null}})", "model.merges is missing");
}

TEST_F(TokenizerJsonTest, UnknownTokenOutsideTheVocabularyIsRefused) {
  ExpectInvalid(R"({"model": {"unk_token": "<unk>"}})",
                "model.unk_token \"<unk>\" is not in model.vocab");
}

TEST_F(TokenizerJsonTest, ValuesOfAWrongTypeAreRefused) {
  ExpectInvalid(R"({"model": {"fuse_unk": "yes"}})", "model.fuse_unk is \"yes\"");
  ExpectInvalid(R"({"added_tokens": {}})", "added_tokens is object; it must be a list");
  ExpectInvalid(R"({"normalizer": "NFC"})", "normalizer.type is missing");
  ExpectInvalid(R"({"model": {"vocab": []}})", "model.vocab is array; it must be an object");
}

TEST_F(TokenizerJsonTest, FilesThatAreNoJsonObjectsAreRefused) {
  ExpectInvalidFile("", "tokenizer.json is not JSON, at its byte 1");
  ExpectInvalidFile(R"({"model")", "tokenizer.json is not JSON");
  ExpectInvalidFile("[]", "it must be an object");
  ExpectInvalidFile("{\"model\": \"\xff\"}", "tokenizer.json is not JSON");
  ExpectInvalidFile(std::string(100'000, '['), "tokenizer.json");
  ExpectInvalidFile(std::string(1000, '[') + std::string(1000, ']'),
                    "nested deeper than 64 levels");
}

TEST_F(TokenizerJsonTest, NormalizersForUnigramAreReadOrRefused) {
  EXPECT_THAT(Ids("a\u0301b", R"({"normalizer": {"type": "StripAccents"}})"), ElementsAre(4));
  ExpectInvalid(R"({"normalizer": {"type": "Precompiled"}})", "precompiled_charsmap is missing");
  ExpectInvalid(R"({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "a?=="}})",
                "normalizer.precompiled_charsmap is not base64");
  // A length of 255 and nothing after it.
  ExpectInvalid(R"({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/wAAAA=="}})",
                "its trie has 255 bytes, and 0 follow");
}

TEST_F(TokenizerJsonTest, BrokenConfigIsRefused) {
  ExpectInvalid(Open("{}", "{").status(), "tokenizer_config.json is not JSON");
  ExpectInvalid(Open("{}", "[]").status(), "tokenizer_config.json is array");
  ExpectInvalid(Open("{}", R"({"add_bos_token": 1})").status(), "add_bos_token is 1");
  ExpectInvalid(Open("{}", R"({"added_tokens_decoder": {"x": {"content": "<s>"}}})").status(),
                "has the key \"x\"");
}

}  // namespace
}  // namespace teq::text
