// Directories of every format, written and read back by the readers that share nothing with the
// writers.
#include "worker/engine/pack/checkpoint_directory.h"

#include <gmock/gmock.h>

#include <fstream>
#include <set>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "tests/unit/worker/engine/pack/tiny_packable.h"
#include "tests/unit/worker/engine/verify/whole_model.h"
#include "worker/engine/pipeline/output_formats.h"

namespace teq::pack {
namespace {

using torch::Tensor;

nlohmann::ordered_json ReadJson(const std::filesystem::path& file) {
  return nlohmann::ordered_json::parse(std::ifstream(file));
}

class CheckpointDirectoryTest : public testing::Test {
 protected:
  CheckpointDirectoryTest()
      : directory_(testing::TempDir() + "teq-formats-" + std::to_string(getpid())) {
    Clear();
  }
  ~CheckpointDirectoryTest() override { std::filesystem::remove_all(directory_); }

  void Clear() {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }

  absl::StatusOr<pipeline::ReadBack> WriteAndRead(teq::v1::Format format,
                                                  const PackableModel& model) {
    Clear();
    const pipeline::OutputFormat& row = *pipeline::FindOutputFormat(format).value();
    const auto written = row.write(model, directory_);
    if (!written.ok()) return written.status();
    digests_ = *written;
    // What was digested on its way is all that lies there.
    TEQ_RETURN_IF_ERROR(verify::CheckDigests(directory_, digests_));
    return pipeline::ReadOutput(row, model, directory_);
  }

  std::filesystem::path directory_;
  std::map<std::string, std::string> digests_;
};

// Asked before the work begins: it would end in its last stage.
TEST_F(CheckpointDirectoryTest, ACompanionThatCannotBeReadIsNamed) {
  const pipeline::OutputFormat& row = *pipeline::FindOutputFormat(teq::v1::FORMAT_AWQ).value();
  EXPECT_TRUE(row.check(directory_, {}).ok());
  std::filesystem::create_directories(directory_ / "NOTICE");
  const absl::Status status = row.check(directory_, {});
  EXPECT_EQ(ErrorReason(status), "INVALID_CHECKPOINT");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("NOTICE"));
}

void ExpectSameCodes(const verify::PackedModel& packed, const PackableModel& model) {
  const auto whole = verify::ReadWhole(packed);
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_EQ(whole->layers.size(), model.layers.size());
  for (const auto& [name, layer] : whole->layers) {
    const quant::Quantized& rounded = model.layers.at(name);
    EXPECT_TRUE(torch::equal(layer.codes, rounded.codes)) << name;
    EXPECT_TRUE(torch::equal(layer.scales, rounded.scales)) << name;
    EXPECT_TRUE(torch::equal(layer.zeros, rounded.zeros.to(torch::kInt32))) << name;
  }
}

TEST_F(CheckpointDirectoryTest, EveryGridReadsBackAsItWasRounded) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int group : {-1, 32, 128}) {
      for (const bool symmetric : {false, true}) {
        const PackableModel model = TinyPackable({true, bits, group, symmetric});
        for (const teq::v1::Format format :
             {teq::v1::FORMAT_GPTQ, teq::v1::FORMAT_AWQ, teq::v1::FORMAT_COMPRESSED_TENSORS}) {
          if (format == teq::v1::FORMAT_AWQ && bits != 4) continue;
          SCOPED_TRACE(testing::Message() << teq::v1::Format_Name(format) << " " << bits
                                          << " bits, " << group << ", symmetric " << symmetric);
          const auto back = WriteAndRead(format, model);
          ASSERT_TRUE(back.ok()) << back.status();
          EXPECT_TRUE(back->exact);
          ExpectSameCodes(back->packed, model);
        }
      }
    }
  }
}

TEST_F(CheckpointDirectoryTest, DequantizedHoldsTheCodesValuesInThePublishedType) {
  for (const torch::ScalarType type : {torch::kFloat16, torch::kBFloat16}) {
    PackableModel model = TinyPackable({true, 8, 32, false});
    for (auto& [name, tensor] : model.floats) tensor = tensor.to(type);
    const auto back = WriteAndRead(teq::v1::FORMAT_DEQUANTIZED, model);
    ASSERT_TRUE(back.ok()) << back.status();
    // Eight bits times a scale of eleven do not fit either type.
    EXPECT_FALSE(back->exact);
    const std::string name = "model.layers.0.mlp.up_proj";
    const quant::Quantized& rounded = model.layers.at(name);
    const Tensor value = (rounded.codes[3][40].to(torch::kFloat32) - rounded.zeros[3][1]) *
                         rounded.scales[3][1].to(torch::kFloat32);
    EXPECT_EQ(back->packed.layers.at(name)().value().weight[3][40].item<float>(),
              value.to(type).item<float>());
    const nlohmann::ordered_json config = ReadJson(directory_ / "config.json");
    EXPECT_FALSE(config.contains("quantization_config"));
    EXPECT_EQ(config["torch_dtype"], type == torch::kFloat16 ? "float16" : "bfloat16");
    EXPECT_EQ(config["architectures"][0], "LlamaForCausalLM");
  }
}

TEST_F(CheckpointDirectoryTest, DequantizedRefusesAValueThatItsTypeCannotHold) {
  PackableModel model = TinyPackable({true, 8, 32, false});
  model.layers["model.layers.0.mlp.up_proj"].scales.fill_(60000);
  const auto back = WriteAndRead(teq::v1::FORMAT_DEQUANTIZED, model);
  ASSERT_FALSE(back.ok());
  EXPECT_THAT(back.status().ToString(),
              testing::AllOf(testing::HasSubstr("model.layers.0.mlp.up_proj"),
                             testing::HasSubstr("too large for")));
}

TEST_F(CheckpointDirectoryTest, MixedGridsAndFloatLayersReadBack) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  Regrid(model, "model.layers.0.mlp.down_proj", {true, 8, 128, true});
  Regrid(model, "model.layers.0.self_attn.k_proj", {true, 3, -1, false});
  Regrid(model, "model.layers.0.self_attn.o_proj", {.quantized = false});
  for (const teq::v1::Format format : {teq::v1::FORMAT_GPTQ, teq::v1::FORMAT_COMPRESSED_TENSORS}) {
    const auto back = WriteAndRead(format, model);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_TRUE(back->exact);
    ExpectSameCodes(back->packed, model);
  }
}

TEST_F(CheckpointDirectoryTest, MixturesReadBackWithExpertsAlikeAndNot) {
  PackableModel model = TinyMixture({true, 4, 32, false});
  RegridWhere(model, R"(model\.layers\.1\.mlp\.experts\..*)", {.quantized = false});
  RegridWhere(model, R"(model\.layers\.2\.mlp\.experts\.(1|11)\..*)", {.quantized = false});
  for (const teq::v1::Format format :
       {teq::v1::FORMAT_AWQ, teq::v1::FORMAT_GPTQ, teq::v1::FORMAT_COMPRESSED_TENSORS}) {
    SCOPED_TRACE(teq::v1::Format_Name(format));
    if (format != teq::v1::FORMAT_AWQ) {
      RegridWhere(model, R"(model\.layers\.3\.mlp\.experts\..*)", {true, 8, -1, true});
      RegridWhere(model, R"(model\.layers\.4\.mlp\.experts\.(1|11)\.up_proj)",
                  {true, 3, 32, false});
    }
    const auto back = WriteAndRead(format, model);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_TRUE(back->exact);
    ExpectSameCodes(back->packed, model);
  }
}

TEST_F(CheckpointDirectoryTest, OtherPartsOfALargerModelReadBackAsTheyWere) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  Regrid(model, "model.layers.0.self_attn.o_proj", {.quantized = false});
  MakePart(model);
  model.other_tensors.emplace_back("vision_tower.unset", torch::tensor(NAN));
  for (const teq::v1::Format format :
       {teq::v1::FORMAT_GPTQ, teq::v1::FORMAT_AWQ, teq::v1::FORMAT_COMPRESSED_TENSORS,
        teq::v1::FORMAT_DEQUANTIZED}) {
    const auto back = WriteAndRead(format, model);
    ASSERT_TRUE(back.ok()) << back.status();
    if (format != teq::v1::FORMAT_DEQUANTIZED) ExpectSameCodes(back->packed, model);
    PackableModel other = model;
    other.other_tensors.front().second = other.other_tensors.front().second + 1;
    EXPECT_THAT(
        pipeline::ReadOutput(*pipeline::FindOutputFormat(format).value(), other, directory_)
            .status()
            .ToString(),
        testing::HasSubstr("vision_tower.layers.0.mlp.down_proj.weight does not read back"));
  }
}

TEST_F(CheckpointDirectoryTest, SymmetricLayersMayStandBesideOthersInAwq) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  Regrid(model, "model.layers.0.mlp.down_proj", {true, 4, 32, true});
  const auto back = WriteAndRead(teq::v1::FORMAT_AWQ, model);
  ASSERT_TRUE(back.ok()) << back.status();
  ExpectSameCodes(back->packed, model);
}

TEST_F(CheckpointDirectoryTest, LargeModelsAreShardedWithAnIndexThatNamesEveryTensor) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  model.shard_bytes = 20'000;
  for (const teq::v1::Format format :
       {teq::v1::FORMAT_GPTQ, teq::v1::FORMAT_AWQ, teq::v1::FORMAT_COMPRESSED_TENSORS,
        teq::v1::FORMAT_DEQUANTIZED}) {
    SCOPED_TRACE(teq::v1::Format_Name(format));
    const auto back = WriteAndRead(format, model);
    ASSERT_TRUE(back.ok()) << back.status();
    const nlohmann::ordered_json index = ReadJson(directory_ / "model.safetensors.index.json");
    std::set<std::string> files;
    for (const auto& [tensor, file] : index["weight_map"].items()) files.insert(file);
    EXPECT_GT(files.size(), 2U);
    std::int64_t bytes = 0;
    std::size_t number = 0;
    for (const std::string& file : files) {
      EXPECT_EQ(file, fmt::format("model-{:05}-of-{:05}.safetensors", ++number, files.size()));
      EXPECT_TRUE(digests_.contains(file));
      std::ifstream stream(directory_ / file, std::ios::binary);
      std::uint64_t header = 0;
      stream.read(reinterpret_cast<char*>(&header), sizeof(header));
      bytes +=
          static_cast<std::int64_t>(std::filesystem::file_size(directory_ / file) - 8 - header);
    }
    EXPECT_EQ(index["metadata"]["total_size"], bytes);
    EXPECT_FALSE(std::filesystem::exists(directory_ / "model.safetensors"));
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      EXPECT_NE(entry.path().extension(), ".part");
    }
  }
}

TEST_F(CheckpointDirectoryTest, CompanionsAndBothNamesOfTheTypeFollowTheSource) {
  PackableModel model = TinyPackable({true, 4, 32, false});
  model.config.source["dtype"] = "float32";
  const std::filesystem::path source = directory_.string() + "-source";
  std::filesystem::create_directories(source);
  for (const char* name : {"tokenizer.json", "generation_config.json", "LICENSE", "README.md"}) {
    std::ofstream(source / name) << name;
  }
  model.source = source;
  ASSERT_TRUE(WriteAndRead(teq::v1::FORMAT_AWQ, model).ok());
  std::filesystem::remove_all(source);
  const nlohmann::ordered_json config = ReadJson(directory_ / "config.json");
  EXPECT_EQ(config["dtype"], "float16");
  EXPECT_EQ(config["torch_dtype"], "float16");
  std::set<std::string> files;
  for (const auto& [file, digest] : digests_) files.insert(file);
  EXPECT_EQ(files, (std::set<std::string>{"LICENSE", "config.json", "generation_config.json",
                                          "model.safetensors", "tokenizer.json"}));
}

TEST_F(CheckpointDirectoryTest, AChangedLayerOrTensorDoesNotPassAsWritten) {
  const PackableModel written = TinyPackable({true, 4, 32, false});
  const pipeline::OutputFormat& row =
      *pipeline::FindOutputFormat(teq::v1::FORMAT_COMPRESSED_TENSORS).value();
  ASSERT_TRUE(row.write(written, directory_).ok());
  PackableModel meant = written;
  quant::Quantized& layer = meant.layers["model.layers.0.mlp.up_proj"];
  layer.codes = layer.codes.bitwise_xor(1);
  EXPECT_THAT(pipeline::ReadOutput(row, meant, directory_).status().ToString(),
              testing::HasSubstr("layer model.layers.0.mlp.up_proj does not read back"));
  meant = written;
  meant.floats.front().second = meant.floats.front().second + 1;
  EXPECT_THAT(pipeline::ReadOutput(row, meant, directory_).status().ToString(),
              testing::HasSubstr(meant.floats.front().first + " does not read back"));
  meant = written;
  const std::string gone = meant.floats.back().first;
  meant.floats.pop_back();
  EXPECT_THAT(pipeline::ReadOutput(row, meant, directory_).status().ToString(),
              testing::HasSubstr("tensor " + gone + " is not the model's"));
}

TEST(FloatTypeTest, IsWhatMostValuesHave) {
  PackableModel model;
  model.floats = {{"norm", torch::ones({8}, torch::kFloat16)},
                  {"embedding", torch::ones({4, 8}, torch::kBFloat16)}};
  EXPECT_EQ(FloatType(model), torch::kBFloat16);
}

}  // namespace
}  // namespace teq::pack
