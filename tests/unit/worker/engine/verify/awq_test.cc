// Expected words are those of the format's public description, worked out by hand.
#include "worker/engine/verify/awq.h"

#include <cstdint>
#include <limits>

#include "gmock/gmock.h"
#include "tests/unit/worker/engine/verify/published_directory.h"

namespace teq::verify {
namespace {

constexpr char kUp[] = "model.layers.0.mlp.up_proj";

torch::Tensor Word(std::uint32_t word) {
  return torch::full({1, 1}, static_cast<std::int64_t>(static_cast<std::int32_t>(word)),
                     torch::kInt32);
}

// Nibbles from the lowest are outputs 0 2 4 6 1 3 5 7.
TEST(UnpackAwqTest, UndoesTheInterleaveAndKeepsZeroPoints) {
  const auto layer =
      UnpackAwq(Word(0x07651423), Word(0xc7803f15), torch::full({1, 8}, 0.5, torch::kFloat16));
  ASSERT_TRUE(layer.ok()) << layer.status();
  const std::vector<int> codes = {3, 5, 2, 6, 4, 7, 1, 0};
  const std::vector<int> zeros = {5, 0, 1, 8, 15, 7, 3, 12};
  for (int output = 0; output < 8; ++output) {
    EXPECT_EQ(layer->codes[output][0].item<int>(), codes[output]);
    EXPECT_EQ(layer->zeros[output][0].item<int>(), zeros[output]);
    EXPECT_EQ(layer->weight[output][0].item<float>(),
              0.5F * static_cast<float>(codes[output] - zeros[output]));
  }
}

class ReadAwqDirectoryTest : public PublishedDirectoryTest {
 protected:
  ReadAwqDirectoryTest() : PublishedDirectoryTest(ReadAwqDirectory) {}

  static PublishedFiles Example() {
    PublishedFiles files = OtherFiles();
    files.config["quantization_config"] = nlohmann::ordered_json::parse(
        R"({"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": true,
            "version": "gemm", "modules_to_not_convert": ["lm_head", "gate_proj"]})");
    for (const auto& [name, shape] : LinearShapes()) {
      if (name.ends_with("gate_proj")) {
        files.tensors[name + ".weight"] = torch::ones(shape, torch::kFloat16);
        continue;
      }
      files.tensors[name + ".qweight"] = torch::zeros({shape[1], shape[0] / 8}, torch::kInt32);
      files.tensors[name + ".qzeros"] = torch::zeros({shape[1] / 16, shape[0] / 8}, torch::kInt32);
      files.tensors[name + ".scales"] =
          torch::full({shape[1] / 16, shape[0]}, 0.25, torch::kFloat16);
    }
    return files;
  }

  void ExpectRejected(const std::function<void(PublishedFiles&)>& change,
                      const std::vector<std::string>& messages) {
    PublishedDirectoryTest::ExpectRejected(Example(), change, messages);
  }
};

TEST_F(ReadAwqDirectoryTest, GivesPackedLayersAndTheOtherTensors) {
  PublishedFiles files = Example();
  // Input 17, outputs 8 to 15: output 9 has nibble 4.
  files.tensors[std::string(kUp) + ".qweight"][17][1] = 0x00070000;
  files.tensors[std::string(kUp) + ".qzeros"][1][1] = 0x00020000;
  const auto model = Read(files);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->layers.size(), 6U);
  EXPECT_EQ(model->tensors.size(), 6U);
  EXPECT_EQ(model->layers.at(kUp).weight[9][17].item<float>(), 0.25F * 5);
  EXPECT_EQ(model->layers.at(kUp).weight[9][18].item<float>(), 0.25F * -2);
  EXPECT_EQ(model->layers.at(kUp).weight[9][15].item<float>(), 0);
}

TEST_F(ReadAwqDirectoryTest, EverySettingThatLoadersReadIsChecked) {
  const auto set = [](const char* key, const nlohmann::ordered_json& value) {
    return
        [key, value](PublishedFiles& files) { files.config["quantization_config"][key] = value; };
  };
  ExpectRejected(set("quant_method", "gptq"), {"quant_method is \"gptq\"; expected \"awq\""});
  ExpectRejected(set("bits", 8), {"bits is 8; expected 4"});
  ExpectRejected(set("version", "gemv"), {"version is \"gemv\""});
  ExpectRejected(set("zero_point", false), {"zero_point is false"});
  ExpectRejected(set("group_size", 0), {"group_size is 0; expected -1 or a positive number"});
  ExpectRejected(set("modules_to_not_convert", "lm_head"), {"expected a list of names"});
  ExpectRejected(set("group_size", 32), {"layer model.layers.0.mlp.down_proj",
                                         "groups of 16 columns, but config.json says 32"});
  ExpectRejected([](PublishedFiles& files) { files.config.erase("quantization_config"); },
                 {"quantization_config: is missing"});
}

TEST_F(ReadAwqDirectoryTest, FloatAndPackedLayersMustBeThoseOfTheConfig) {
  ExpectRejected(
      [](PublishedFiles& files) {
        files.config["quantization_config"]["modules_to_not_convert"] = {"lm_head"};
      },
      {"gate_proj", "weight: is float, but config.json says that the layer is packed"});
  ExpectRejected(
      [](PublishedFiles& files) {
        files.config["quantization_config"]["modules_to_not_convert"].push_back("up_proj");
      },
      {kUp, "is there, but config.json says that the layer is float"});
  ExpectRejected(
      [](PublishedFiles& files) {
        files.tensors[std::string(kUp) + ".weight"] = torch::ones({64, 32}, torch::kFloat16);
      },
      {kUp, "weight: lies beside the packed tensors"});
  // Without it in the list, loaders would look for the head's packed tensors.
  ExpectRejected(
      [](PublishedFiles& files) {
        files.config["quantization_config"]["modules_to_not_convert"] = {"gate_proj"};
      },
      {"layer lm_head"});
}

TEST_F(ReadAwqDirectoryTest, PartsOfAnotherFormAreNamed) {
  const auto part = [](const char* name) { return kUp + (std::string(".") + name); };
  for (const char* name : {"qweight", "qzeros", "scales"}) {
    ExpectRejected([&](PublishedFiles& files) { files.tensors.erase(part(name)); }, {kUp, name});
  }
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("qzeros")] = torch::zeros({2, 9}, torch::kInt32);
      },
      {kUp, "qzeros: has shape [2, 9]; expected [2, 8]"});
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("scales")] = files.tensors[part("scales")].to(torch::kBFloat16);
      },
      {kUp, "scales: has type BFloat16; expected Half"});
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("scales")][1][5] = std::numeric_limits<float>::infinity();
      },
      {kUp, "scales: is not finite at [1, 5]"});
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("qweight")] = torch::zeros({64, 8}, torch::kInt32);
      },
      {kUp, "the model's layer has 64 and 32"});
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("bias")] = torch::zeros({9}, torch::kFloat16);
      },
      {kUp, "bias: its shape is not [64]"});
}

}  // namespace
}  // namespace teq::verify
