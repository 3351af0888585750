#include "worker/engine/pack/model_card.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

namespace teq::pack {
namespace {

using testing::HasSubstr;
using testing::Not;

class ModelCardTest : public testing::Test {
 protected:
  ModelCardTest() : source_(testing::TempDir() + "teq-card-" + std::to_string(getpid())) {
    std::filesystem::create_directories(source_);
    report_.mutable_inputs()->set_model_uri("hf://meta/Tiny-Llama@main");
    report_.mutable_inputs()->set_model_sha256("0aa6a192");
    report_.mutable_inputs()->set_engine_version("1.2.3");
    report_.mutable_recipe()->mutable_weights()->set_bits(4);
    report_.add_layers()->set_bits(4);
    card_.format = teq::v1::FORMAT_AWQ;
    card_.exact = true;
    card_.source = source_;
    card_.file_digests = {{"config.json", "11"}, {"model.safetensors", "22"}};
    teq::v1::Perplexity& figures = card_.perplexity.emplace_back();
    figures.set_dataset("file:///data/a|b.txt");
    figures.set_full_precision(10);
    figures.set_round_to_nearest(11.5);
    figures.set_quantized(10.25);
    figures.set_standard_error(0.5);
    figures.set_delta(0.25);
    figures.set_delta_standard_error(0.0625);
  }
  ~ModelCardTest() override { std::filesystem::remove_all(source_); }

  std::string Text() { return ModelCardText(card_, report_); }

  std::filesystem::path source_;
  ModelCard card_;
  teq::v1::Report report_;
};

TEST_F(ModelCardTest, SaysWhatTheModelIsAndHowGood) {
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("\n# Tiny-Llama, 4-bit, AWQ (gemm)\n"));
  EXPECT_THAT(text, HasSubstr("| file:///data/a\\|b.txt | 10.0000 | 11.5000 | 10.2500 ± 0.5000 | "
                              "+0.2500 ± 0.0625 |\n"));
  EXPECT_THAT(text, HasSubstr("```yaml\nweights:\n  bits: 4\n"));
  EXPECT_THAT(text, HasSubstr("bits: 4\n"));
  EXPECT_THAT(text, HasSubstr("\n22  model.safetensors\n"));
  EXPECT_THAT(text, Not(HasSubstr("config.json")));
  EXPECT_THAT(text, HasSubstr("vllm serve"));
}

TEST_F(ModelCardTest, FrontMatterNamesTheBaseModelOfAHubAndTheSourcesLicense) {
  std::ofstream(source_ / "README.md") << "---\nlicense: other\nlicense_name: tiny\n"
                                          "language:\n- en\n- fr\ntags:\n- chat\n"
                                          "model-index:\n- name: x\n---\n# Tiny\nlicense: mit\n";
  EXPECT_THAT(Text(), testing::StartsWith("---\n"
                                          "library_name: transformers\n"
                                          "pipeline_tag: text-generation\n"
                                          "base_model: meta/Tiny-Llama\n"
                                          "base_model_relation: quantized\n"
                                          "license: other\n"
                                          "license_name: tiny\n"
                                          "language:\n  - en\n  - fr\n"
                                          "tags:\n  - teq\n  - quantized\n  - awq\n  - \"4-bit\"\n"
                                          "---\n"));
}

TEST_F(ModelCardTest, ASourceWithoutReadableFrontMatterGivesNone) {
  for (const char* readme : {"# Tiny\nlicense: mit\n", "---\nlicense: mit\n", "---\n---\n",
                             "---\n---", "---\n: [\n---\n", "---\n- license\n---\n"}) {
    std::ofstream(source_ / "README.md") << readme;
    EXPECT_THAT(Text(), Not(HasSubstr("license"))) << readme;
  }
}

// Hubs refuse a card whose base model is no name of theirs.
TEST_F(ModelCardTest, ALocalModelIsNoBaseModel) {
  report_.mutable_inputs()->set_model_uri("file:///models/llama/");
  EXPECT_THAT(Text(), Not(HasSubstr("base_model")));
  EXPECT_THAT(Text(), HasSubstr("# llama, "));
}

TEST_F(ModelCardTest, AFormatThatRoundsWhatItStoresSaysSo) {
  card_.exact = false;
  EXPECT_THAT(Text(), HasSubstr("rounds what it stores once more"));
}

}  // namespace
}  // namespace teq::pack
