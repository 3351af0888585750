#include "client/model_info/gguf_rules.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "client/model_info/gguf_tokenizer.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

constexpr const char* kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

Json ByteLevel(bool words) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", words}};
}
Json Split(const std::string& regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
}
Json Sequence(const std::vector<Json>& parts) {
  return {{"type", "Sequence"}, {"pretokenizers", parts}};
}
Json Tokenizer(const Json& pre_tokenizer) {
  return {{"pre_tokenizer", pre_tokenizer}, {"model", {{"type", "BPE"}}}};
}
Json Metaspace() {
  return {{"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "\u2581"}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}},
          {"model", {{"type", "BPE"}, {"byte_fallback", true}}}};
}

class GgufRulesTest : public testing::Test {
 protected:
  GgufRulesTest()
      : directory_(std::filesystem::path(testing::TempDir()) /
                   (testing::UnitTest::GetInstance()->current_test_info()->name() +
                    std::to_string(getpid()))) {
    std::filesystem::create_directories(directory_);
    Write(Tokenizer(ByteLevel(true)));
    Describe(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
                 "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 96})");
  }
  ~GgufRulesTest() override { std::filesystem::remove_all(directory_); }

  void Write(const Json& tokenizer) {
    std::ofstream(directory_ / "tokenizer.json") << tokenizer.dump();
  }

  void Describe(const std::string& json) {
    const auto config = ParseModelConfig(Json::parse(json), "config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    config_ = *config;
  }

  absl::Status Check(const LayerGrid& grid) {
    std::vector<PlannedLayer> plan;
    for (const LinearLayer& layer : LinearLayers(config_)) plan.push_back({layer, grid});
    return CheckGguf(spec_, config_, plan, directory_);
  }

  static void ExpectRefused(const absl::Status& status, const std::string& words) {
    EXPECT_EQ(ErrorReason(status), "FORMAT_CANNOT_HOLD");
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  }

  void ExpectKind(const Json& tokenizer, const std::string& model, const std::string& pre) {
    Write(tokenizer);
    const auto kind = FindGgufTokenizer(directory_);
    ASSERT_TRUE(kind.ok()) << kind.status();
    EXPECT_EQ(kind->model, model);
    EXPECT_EQ(kind->pre, pre);
  }

  std::filesystem::path directory_;
  ModelConfig config_;
  teq::v1::JobSpec spec_;
};

TEST_F(GgufRulesTest, PassesWhatItHolds) {
  for (const LayerGrid& grid : {LayerGrid{true, 4, 32, true}, LayerGrid{true, 4, 64, false},
                                LayerGrid{true, 4, -1, false}, LayerGrid{true, 8, 32, true}}) {
    EXPECT_TRUE(Check(grid).ok()) << Check(grid);
  }
}

TEST_F(GgufRulesTest, RefusesBitsWithoutAType) {
  ExpectRefused(Check({true, 3, 32, true}), "no type for 3-bit symmetric codes of model.layers.0.");
  ExpectRefused(Check({true, 8, 32, false}), "8-bit asymmetric");
  ExpectRefused(Check({true, 2, 32, false}), "and 3 more");
  spec_.mutable_recipe()->mutable_weights()->set_target_bits(4);
  ExpectRefused(Check({true, 4, 32, true}), "target_bits may choose 3 bits");
}

TEST_F(GgufRulesTest, RefusesGroupsAndRowsThatCutBlocks) {
  ExpectRefused(Check({true, 4, 16, true}), "group_size 16 of");
  ExpectRefused(Check({true, 2, 32, true}), "256 codes of 2 bits");
  ExpectRefused(Check({true, 2, -1, true}), "rows of 64 codes do not fill blocks of 256");
}

TEST_F(GgufRulesTest, RefusesModelsThatLlamaCppComputesOtherwise) {
  const auto describe = [&](const std::string& more) {
    Describe(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
                 "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 96, )" +
             more + "}");
    return CheckGgufModel(config_);
  };
  ExpectRefused(describe(R"("hidden_act": "gelu")"), "activation");
  ExpectRefused(describe(R"("rope_scaling": {"type": "dynamic", "factor": 2})"), "dynamic");
  ExpectRefused(describe(R"("rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 16})"),
                "yarn");
  ExpectRefused(describe(R"("partial_rotary_factor": 0.5)"), "8 of 16 dimensions");
  Describe(R"({"model_type": "gemma", "hidden_size": 64, "intermediate_size": 128, "head_dim": 16,
               "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
               "vocab_size": 96})");
  ExpectRefused(CheckGgufModel(config_), "type gemma is not written; known: bloom");
  Describe(R"({"model_type": "gpt2", "n_embd": 64, "n_layer": 1, "n_head": 4, "vocab_size": 96,
               "scale_attn_by_inverse_layer_idx": true})");
  ExpectRefused(CheckGgufModel(config_), "attention by depth");
}

TEST_F(GgufRulesTest, NamesByteLevelTokenizersByTheirStages) {
  ExpectKind(Tokenizer(ByteLevel(true)), "gpt2", "gpt-2");
  ExpectKind(Tokenizer(Sequence({Split(kLlama3), ByteLevel(false)})), "gpt2", "dbrx");
  Json llama = Tokenizer(Sequence({Split(kLlama3), ByteLevel(false)}));
  llama["model"]["ignore_merges"] = true;
  ExpectKind(llama, "gpt2", "llama-bpe");
  Json qwen = Tokenizer(
      Sequence({Split(std::string(kLlama3).replace(std::string(kLlama3).find("{1,3}"), 5, "")),
                ByteLevel(false)}));
  qwen["normalizer"] = {{"type", "NFC"}};
  ExpectKind(qwen, "gpt2", "qwen2");
  ExpectKind(Tokenizer(Sequence({{{"type", "Punctuation"}, {"behavior", "Contiguous"}},
                                 ByteLevel(true),
                                 {{"type", "Digits"}, {"individual_digits", false}},
                                 Split("[0-9][0-9][0-9]")})),
             "gpt2", "falcon");
  ExpectKind(
      Tokenizer(Sequence({{{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true)})),
      "gpt2", "smollm");
  ExpectKind(
      Tokenizer(Sequence({Split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"),
                          ByteLevel(false)})),
      "gpt2", "bloom");
}

TEST_F(GgufRulesTest, NamesSentencePiecesVocabulary) {
  ExpectKind(Metaspace(), "llama", "default");
  EXPECT_TRUE(FindGgufTokenizer(directory_)->space_prefix);
}

TEST_F(GgufRulesTest, RefusesTokenizersThatNoKindReproduces) {
  const auto refuse = [&](const Json& tokenizer, const std::string& words) {
    Write(tokenizer);
    ExpectRefused(Check({true, 4, 32, true}), words);
  };
  refuse(Tokenizer(Sequence({Split("[a-z]+"), ByteLevel(false)})), "[Split [a-z]+; ByteLevel]");
  Json spaced = Tokenizer(ByteLevel(true));
  spaced["pre_tokenizer"]["add_prefix_space"] = true;
  refuse(spaced, "after a space");
  Json lower = Tokenizer(ByteLevel(true));
  lower["normalizer"] = {{"type", "Lowercase"}};
  refuse(lower, "Lowercase");
  Json stripping = Tokenizer(ByteLevel(true));
  stripping["added_tokens"] = {{{"content", "<mask>"}, {"lstrip", true}}};
  refuse(stripping, "\"<mask>\" has lstrip");
  refuse({{"model", {{"type", "Unigram"}}}}, "its model is Unigram");
  Json no_bytes = Metaspace();
  no_bytes["model"]["byte_fallback"] = false;
  refuse(no_bytes, "nor has pieces for them");
  std::filesystem::remove(directory_ / "tokenizer.json");
  ExpectRefused(Check({true, 4, 32, true}), "copy the tokenizer's files");
}

}  // namespace
}  // namespace teq::model_info
