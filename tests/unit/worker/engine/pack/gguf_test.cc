#include "worker/engine/pack/gguf.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "client/model_info/layout.h"
#include "proto/spec/error.h"
#include "tests/unit/worker/engine/model/family_case.h"
#include "tests/unit/worker/engine/text/test_directory.h"
#include "tests/unit/worker/engine/verify/whole_model.h"
#include "worker/engine/pack/gguf_tensors.h"
#include "worker/engine/pack/gguf_vocabulary.h"
#include "worker/engine/text/json_part.h"
#include "worker/engine/text/tokenizer_config.h"
#include "worker/engine/text/vocabulary_files.h"
#include "worker/engine/verify/gguf.h"

namespace teq::pack {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;

std::vector<int> Numbers(const Tensor& order) {
  std::vector<int> numbers;
  for (std::int64_t i = 0; i < order.numel(); ++i) numbers.push_back(order[i].item<int>());
  return numbers;
}

TEST(GgufTensorsTest, HalvesOfAHeadBecomeNeighbours) {
  EXPECT_THAT(Numbers(NeighbourPairs(2, 4)), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
}

TEST(GgufTensorsTest, FusedRowsByHeadBecomeQueriesKeysValues) {
  // Two key heads with two queries each, of one dimension: q q k v, q q k v.
  EXPECT_THAT(Numbers(QueriesKeysValues(4, 2, 1)), ElementsAre(0, 1, 4, 5, 2, 6, 3, 7));
  EXPECT_THAT(Numbers(QueriesKeysValues(2, 2, 2)),
              ElementsAre(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11));
}

/// As a file has it: numbers without a sign.
nlohmann::json Parsed(const nlohmann::json& json) { return nlohmann::json::parse(json.dump()); }

nlohmann::json Metaspace(const std::vector<std::string>& tokens,
                         const std::vector<std::string>& merges) {
  nlohmann::json vocabulary = {{"<unk>", 0}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocabulary[name] = byte + 1;
  }
  for (const std::string& token : tokens) vocabulary[token] = vocabulary.size();
  return Parsed({{"model", {{"vocab", vocabulary}, {"merges", merges}, {"unk_token", "<unk>"}}}});
}

TEST(GgufVocabularyTest, ScoresFallInTheOrderInWhichMergesFormTokens) {
  const auto vocabulary = MetaspaceVocabulary(
      Metaspace({"a", "b", "c", "ab", "abc", "bc"}, {"a b", "b c", "ab c", "a bc"}));
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  const auto& tokens = vocabulary->tokens;
  EXPECT_EQ(tokens[0].type, GgufToken::Type::kUnknown);
  EXPECT_EQ(tokens[66].type, GgufToken::Type::kByte);
  EXPECT_EQ(tokens[257].type, GgufToken::Type::kNormal);
  EXPECT_GT(tokens[260].score, tokens[262].score);  // "ab" before "bc"
  EXPECT_GT(tokens[262].score, tokens[261].score);  // "bc" before "abc"
}

TEST(GgufVocabularyTest, MergesThatScoresCannotSayAreRefused) {
  // "a bc" is no merge, but a score would let it be one.
  const auto missing =
      MetaspaceVocabulary(Metaspace({"a", "b", "c", "ab", "abc", "bc"}, {"a b", "b c", "ab c"}));
  EXPECT_EQ(ErrorReason(missing.status()), "FORMAT_CANNOT_HOLD");
  // "abc" is formed at two ranks with another token between.
  const auto twice = MetaspaceVocabulary(
      Metaspace({"a", "b", "c", "ab", "bc", "abc", "cc"}, {"a b", "b c", "ab c", "c c", "a bc"}));
  EXPECT_EQ(ErrorReason(twice.status()), "FORMAT_CANNOT_HOLD");
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("\"abc\""));
}

TEST(GgufVocabularyTest, AddedTokensAreControlOrUserDefined) {
  const auto vocabulary = ByteLevelVocabulary(
      Parsed({{"added_tokens",
               {{{"id", 4}, {"content", "<end>"}, {"special", true}},
                {{"id", 3}, {"content", "  "}, {"special", false}}}},
              {"model",
               {{"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}},
                {"merges", nlohmann::json::array({nlohmann::json::array({"a", "b"})})}}}}));
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  ASSERT_EQ(vocabulary->tokens.size(), 5U);
  EXPECT_EQ(vocabulary->tokens[4].type, GgufToken::Type::kControl);
  EXPECT_EQ(vocabulary->tokens[3].type, GgufToken::Type::kUserDefined);
  EXPECT_EQ(vocabulary->tokens[2].text, "ab");
  EXPECT_THAT(vocabulary->merges, ElementsAre("a b"));
}

// As transformers' GPT2Tokenizer saves them.
TEST(GgufVocabularyTest, VocabularyFilesKeepWhatTheirConfigSaysOfAddedTokens) {
  const text::TestDirectory directory;
  directory.Write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})");
  directory.Write("merges.txt", "#version: 0.2\na b\n");
  directory.Write("added_tokens.json", R"({"<|endoftext|>": 3, "<user>": 4, "<extra>": 5})");
  directory.Write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer",
      "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
      "added_tokens_decoder": {"3": {"content": "<|endoftext|>", "special": true},
                               "4": {"content": "<user>", "special": false}}})");
  const text::TokenizerConfig config = text::ReadTokenizerConfig(directory.path()).value();
  const auto document = text::ReadVocabularyFiles(directory.path(), config);
  ASSERT_TRUE(document.ok()) << document.status();
  const auto vocabulary = ByteLevelVocabulary(*document);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  ASSERT_EQ(vocabulary->tokens.size(), 6U);
  EXPECT_EQ(vocabulary->tokens[3].type, GgufToken::Type::kControl);
  EXPECT_EQ(vocabulary->tokens[4].type, GgufToken::Type::kUserDefined);
  EXPECT_EQ(vocabulary->tokens[5].type, GgufToken::Type::kUserDefined);
  GgufMetadata metadata;
  const absl::Status described = DescribeVocabulary(directory.path(), 6, metadata);
  EXPECT_TRUE(described.ok()) << described;
}

/// A recorded family case as a model that is ready to be packed.
class WriteGgufTest : public testing::Test {
 protected:
  WriteGgufTest()
      : directory_(testing::TempDir() + "teq-gguf-" + std::to_string(getpid()) +
                   testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::create_directories(directory_ / "source");
    std::filesystem::create_directories(directory_ / "out");
  }
  ~WriteGgufTest() override { std::filesystem::remove_all(directory_); }

  PackableModel Make(const std::string& name, const LayerGrid& grid) {
    const FamilyCase family = ReadFamilyCase(name);
    PackableModel model;
    model.config = model_info::ParseModelConfig(family.config, "config.json").value();
    model.source = directory_ / "source";
    WriteTokenizer(model.config.vocabulary_size);
    std::map<std::string, Tensor> tensors(family.tensors.begin(), family.tensors.end());
    for (const model_info::LinearLayer& layer : model_info::LinearLayers(model.config)) {
      model.plan.push_back({layer, grid});
      const Tensor weight = tensors.extract(layer.name + ".weight").mapped().to(torch::kFloat32);
      model.layers.emplace(
          layer.name,
          quant::QuantizeToNearest(
              model.config.transposed_linears ? weight.t().contiguous() : weight, grid));
    }
    for (const auto& [tensor, values] : tensors) {
      const bool is_own = tensor.starts_with(model.config.head_prefix);
      (is_own ? model.floats : model.other_tensors).emplace_back(tensor, values);
    }
    return model;
  }

  void WriteTokenizer(std::int64_t size) {
    nlohmann::json vocabulary;
    for (std::int64_t i = 0; i + 2 < size; ++i) vocabulary[std::to_string(i)] = i;
    std::ofstream(directory_ / "source" / "tokenizer.json") << nlohmann::json{
        {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
        {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
  }

  std::filesystem::path directory_;
};

TEST_F(WriteGgufTest, TheReaderFindsEveryTensorOfTheCheckpointAgain) {
  for (const char* name : {"llama", "llama-rope-llama3", "llama-rope-yarn", "mistral", "qwen2",
                           "gpt2", "bloom", "falcon-7b", "falcon-11b", "falcon-40b", "mistral3"}) {
    SCOPED_TRACE(name);
    const PackableModel model = Make(name, {true, 4, 32, true});
    const auto written = WriteGgufDirectory(model, directory_ / "out");
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_EQ(written->size(), 1U);
    const absl::Status digests = verify::CheckDigests(directory_ / "out", *written);
    EXPECT_TRUE(digests.ok()) << digests;
    const auto read =
        verify::ReadWhole(verify::ReadGgufDirectory(directory_ / "out", model.config));
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->layers.size(), model.layers.size());
    for (const auto& [layer, quantized] : model.layers) {
      EXPECT_TRUE(torch::equal(read->layers.at(layer).weight, quant::Dequantize(quantized)))
          << layer;
    }
    for (const auto& [tensor, values] : model.floats) {
      ASSERT_TRUE(read->tensors.contains(tensor)) << tensor;
      EXPECT_TRUE(
          torch::equal(read->tensors.at(tensor).to(torch::kFloat32), values.to(torch::kFloat32)))
          << tensor;
    }
  }
}

TEST_F(WriteGgufTest, ATokenizerThatItCannotHoldIsFoundBeforeTheWork) {
  PackableModel model = Make("llama", {true, 4, 32, true});
  EXPECT_TRUE(CheckGgufTokenizer(model.source, model.config).ok());
  model.config.vocabulary_size = 4;  // of more tokens
  const absl::Status status = CheckGgufTokenizer(model.source, model.config);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::StartsWith("format GGUF: "));
}

TEST_F(WriteGgufTest, FourAsymmetricBitsAreWithinAFloat16OfTheOffset) {
  const PackableModel model = Make("llama", {true, 4, 32, false});
  ASSERT_TRUE(WriteGgufDirectory(model, directory_ / "out").ok());
  const auto read = verify::ReadWhole(verify::ReadGgufDirectory(directory_ / "out", model.config));
  ASSERT_TRUE(read.ok()) << read.status();
  for (const auto& [name, quantized] : model.layers) {
    const Tensor offset =
        (quantized.zeros.to(torch::kFloat32) * quantized.scales.to(torch::kFloat32))
            .repeat_interleave(32, 1);
    const Tensor error = (read->layers.at(name).weight - quant::Dequantize(quantized)).abs();
    EXPECT_TRUE((error <= offset * std::exp2(-11)).all().item<bool>()) << name;
  }
}

// Gemma 3's tokenizer has a token for images, and its models no row for it. Llama.cpp wants as many
// tokens as rows.
TEST_F(WriteGgufTest, AnAddedTokenWithoutAnEmbeddingIsLeftOut) {
  const PackableModel model = Make("llama", {true, 4, 32, true});
  const std::int64_t size = model.config.vocabulary_size;
  const auto file = directory_ / "source" / "tokenizer.json";
  const nlohmann::json tokenizer = text::ReadJsonFile(file).value();
  nlohmann::json image = tokenizer;
  image["added_tokens"] = {{{"id", size}, {"content", "<image>"}, {"special", true}}};
  std::ofstream(file) << image;
  const auto written = WriteGgufDirectory(model, directory_ / "out");
  ASSERT_TRUE(written.ok()) << written.status();
  std::ifstream stream(directory_ / "out" / written->begin()->first, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_THAT(bytes, HasSubstr("tokenizer.ggml.tokens"));
  EXPECT_THAT(bytes, Not(HasSubstr("<image>")));

  nlohmann::json larger = tokenizer;
  larger["model"]["vocab"]["more"] = size;
  std::ofstream(file) << larger;
  EXPECT_EQ(ErrorReason(WriteGgufDirectory(model, directory_ / "out").status()),
            "VOCABULARY_MISMATCH");
}

TEST_F(WriteGgufTest, WhatDoesNotFitLeavesNoFile) {
  PackableModel model = Make("llama", {true, 4, 32, false});
  model.layers.begin()->second.scales.fill_(60000);
  EXPECT_EQ(ErrorReason(WriteGgufDirectory(model, directory_ / "out").status()),
            "NOT_REPRESENTABLE");
  EXPECT_TRUE(std::filesystem::is_empty(directory_ / "out"));
}

TEST_F(WriteGgufTest, AFamilyThatLlamaCppComputesOtherwiseIsRefused) {
  const PackableModel model = Make("bloom-postnorm", {true, 4, -1, true});
  const auto written = WriteGgufDirectory(model, directory_ / "out");
  EXPECT_EQ(ErrorReason(written.status()), "FORMAT_CANNOT_HOLD");
  EXPECT_TRUE(std::filesystem::is_empty(directory_ / "out"));
}

}  // namespace
}  // namespace teq::pack
