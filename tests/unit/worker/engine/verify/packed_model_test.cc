#include "worker/engine/verify/packed_model.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "tests/unit/worker/engine/verify/whole_model.h"
#include "torch/torch.h"
#include "worker/engine/checkpoint/checkpoint.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr char kUp[] = "model.layers.0.mlp.up_proj";
constexpr char kDown[] = "model.layers.0.mlp.down_proj";

/// A published directory in memory: one packed layer of 4 bits, one of 8 by a rule, one float.
struct Published {
  Json quantization;
  std::map<std::string, torch::Tensor> tensors;

  void AddPacked(const std::string& module, int bits, std::int64_t columns, std::int64_t outputs,
                 std::int64_t groups) {
    tensors[module + ".qweight"] = torch::zeros({columns * bits / 32, outputs}, torch::kInt32);
    // Fields of 0: zero points of 1.
    tensors[module + ".qzeros"] = torch::zeros({groups, outputs * bits / 32}, torch::kInt32);
    tensors[module + ".scales"] = torch::full({groups, outputs}, 0.25, torch::kFloat16);
    tensors[module + ".g_idx"] =
        torch::arange(columns, torch::kInt32).div(columns / groups, "floor");
  }
};

Published Example() {
  Published published;
  published.quantization = Json::parse(R"j({
    "quant_method": "gptq", "bits": 4, "group_size": 16, "sym": false, "desc_act": false,
    "checkpoint_format": "gptq", "lm_head": false,
    "dynamic": {"+:.*\\.down_proj$": {"bits": 8, "group_size": -1},
                "-:model\\.layers\\.0\\.mlp\\.gate_proj$": {}}})j");
  published.AddPacked(kUp, 4, 32, 8, 2);
  published.AddPacked(kDown, 8, 8, 32, 1);
  published.tensors["model.layers.0.mlp.gate_proj.weight"] = torch::ones({8, 32}, torch::kFloat16);
  published.tensors["model.embed_tokens.weight"] = torch::ones({16, 32}, torch::kFloat16);
  published.tensors["model.norm.weight"] = torch::ones({32}, torch::kFloat16);
  return published;
}

class ReadGptqDirectoryTest : public ::testing::Test {
 protected:
  ReadGptqDirectoryTest() {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 (::testing::UnitTest::GetInstance()->current_test_info()->name() +
                  std::to_string(getpid()));
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~ReadGptqDirectoryTest() override { std::filesystem::remove_all(directory_); }

  void Write(const Published& published) {
    std::ofstream(directory_ / "config.json")
        << Json{{"model_type", "llama"}, {"quantization_config", published.quantization}};
    const std::vector<std::pair<std::string, torch::Tensor>> tensors(published.tensors.begin(),
                                                                     published.tensors.end());
    const absl::Status written =
        checkpoint::WriteSafetensors(directory_ / "model.safetensors", tensors);
    ASSERT_TRUE(written.ok()) << written;
  }

  /// Writes the example after `change` and expects an error that says each of `messages`.
  void ExpectRejected(const std::function<void(Published&)>& change,
                      const std::vector<std::string>& messages) {
    Published published = Example();
    change(published);
    Write(published);
    ExpectUnreadable(messages);
  }

  void ExpectUnreadable(const std::vector<std::string>& messages) {
    const absl::StatusOr<WholeModel> model = ReadWhole(ReadGptqDirectory(directory_));
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(model.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(ErrorReason(model.status()), "VERIFY_FAILED");
    for (const std::string& message : messages) {
      EXPECT_THAT(std::string(model.status().message()), HasSubstr(message));
    }
  }

  std::filesystem::path directory_;
};

TEST_F(ReadGptqDirectoryTest, GivesPackedLayersAndTheOtherTensors) {
  Published published = Example();
  published.tensors[std::string(kUp) + ".qweight"][1][3] = 0x76543210;
  Write(published);
  const absl::StatusOr<WholeModel> model = ReadWhole(ReadGptqDirectory(directory_));
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->layers.size(), 2U);
  const UnpackedLayer& up = model->layers.at(kUp);
  EXPECT_EQ(up.bits, 4);
  EXPECT_EQ(up.group_size, 16);
  // Code 7 of column 15, zero point 1, scale 0.25.
  EXPECT_EQ(up.weight[3][15].item<float>(), 1.5F);
  EXPECT_EQ(up.weight[3][16].item<float>(), -0.25F);
  const UnpackedLayer& down = model->layers.at(kDown);
  EXPECT_EQ(down.bits, 8);
  EXPECT_EQ(down.group_size, 8);
  EXPECT_EQ(model->tensors.size(), 3U);
  EXPECT_EQ(model->tensors.at("model.norm.weight").scalar_type(), torch::kFloat16);
}

TEST_F(ReadGptqDirectoryTest, ReorderedColumnsNeedDescAct) {
  const auto reorder = [](Published& published) {
    torch::Tensor& g_idx = published.tensors[std::string(kUp) + ".g_idx"];
    g_idx = g_idx.flip(0).contiguous();
  };
  ExpectRejected(reorder, {kUp, "g_idx: is 1 at column 0; expected 0, as desc_act is false"});
  Published published = Example();
  reorder(published);
  published.quantization["desc_act"] = true;
  Write(published);
  EXPECT_TRUE(ReadWhole(ReadGptqDirectory(directory_)).ok());
}

TEST_F(ReadGptqDirectoryTest, GroupSizeThatTheConfigDoesNotSayIsRejected) {
  ExpectRejected([](Published& published) { published.quantization["group_size"] = 32; },
                 {kUp, "scales: has groups of 16 columns, but config.json says 32"});
  ExpectRejected(
      [](Published& published) {
        published.quantization["dynamic"]["+:.*\\.down_proj$"]["group_size"] = 4;
      },
      {kDown, "groups of 8 columns, but config.json says 4"});
}

TEST_F(ReadGptqDirectoryTest, BitsThatTheConfigDoesNotSayAreRejected) {
  ExpectRejected([](Published& published) { published.quantization["bits"] = 8; },
                 {kUp, "qweight: has shape [4, 8]; expected [8, 8]"});
}

TEST_F(ReadGptqDirectoryTest, SymmetricLayerWithAnotherZeroPointIsRejected) {
  ExpectRejected([](Published& published) { published.quantization["sym"] = true; },
                 {"qzeros: means a zero point of 1; expected 128, as sym is true"});
}

TEST_F(ReadGptqDirectoryTest, MissingPartIsNamed) {
  for (const std::string part : {"qweight", "qzeros", "scales", "g_idx"}) {
    ExpectRejected([&part](Published& published) { published.tensors.erase(kUp + ("." + part)); },
                   {kUp, part});
  }
}

TEST_F(ReadGptqDirectoryTest, LayerThatTheConfigLeavesFloatMustNotBePacked) {
  ExpectRejected(
      [](Published& published) {
        published.tensors.erase("model.layers.0.mlp.gate_proj.weight");
        published.AddPacked("model.layers.0.mlp.gate_proj", 4, 32, 8, 2);
      },
      {"model.layers.0.mlp.gate_proj", "config.json says that the layer is float"});
  ExpectRejected([](Published& published) { published.AddPacked("lm_head", 4, 32, 8, 2); },
                 {"layer lm_head", "config.json says that the layer is float"});
}

TEST_F(ReadGptqDirectoryTest, FloatLayerThatTheConfigCallsPackedIsRejected) {
  ExpectRejected(
      [](Published& published) {
        published.tensors["model.layers.1.self_attn.q_proj.weight"] =
            torch::ones({8, 32}, torch::kFloat16);
      },
      {"layer model.layers.1.self_attn.q_proj", "weight: is F16 [8, 32]",
       "config.json says that the layer is packed"});
}

TEST_F(ReadGptqDirectoryTest, FloatWeightBesidePackedTensorsIsRejected) {
  ExpectRejected(
      [](Published& published) {
        published.quantization["dynamic"] = Json::object();
        published.tensors.erase("model.layers.0.mlp.gate_proj.weight");
        published.quantization["dynamic"]["+:.*\\.down_proj$"] = {{"bits", 8}, {"group_size", -1}};
        published.tensors[std::string(kUp) + ".weight"] = torch::ones({8, 32}, torch::kFloat16);
      },
      {kUp, "weight: lies beside the packed tensors"});
}

TEST_F(ReadGptqDirectoryTest, BiasOfAnotherLengthIsRejected) {
  ExpectRejected(
      [](Published& published) {
        published.tensors[std::string(kUp) + ".bias"] = torch::zeros({9}, torch::kFloat16);
      },
      {kUp, "bias: its shape is not [8]"});
}

TEST_F(ReadGptqDirectoryTest, ScaleThatIsNotFiniteIsNamedWithItsLayer) {
  ExpectRejected(
      [](Published& published) {
        published.tensors[std::string(kDown) + ".scales"][0][5] =
            std::numeric_limits<float>::quiet_NaN();
      },
      {kDown, "scales: is not finite at [0, 5]"});
}

TEST_F(ReadGptqDirectoryTest, SecondConfigThatDisagreesIsRejected) {
  Published published = Example();
  Write(published);
  std::ofstream(directory_ / "quantize_config.json") << published.quantization;
  EXPECT_TRUE(ReadWhole(ReadGptqDirectory(directory_)).ok());
  published.quantization["bits"] = 8;
  std::ofstream(directory_ / "quantize_config.json") << published.quantization;
  ExpectUnreadable({"quantize_config.json", "differs"});
}

TEST_F(ReadGptqDirectoryTest, MissingOrBrokenFilesAreNamed) {
  ExpectUnreadable({"config.json"});
  std::ofstream(directory_ / "config.json") << "{";
  ExpectUnreadable({"config.json", "no JSON object"});
  Write(Example());
  std::filesystem::resize_file(directory_ / "model.safetensors", 100);
  ExpectUnreadable({"model.safetensors"});
}

}  // namespace
}  // namespace teq::verify
