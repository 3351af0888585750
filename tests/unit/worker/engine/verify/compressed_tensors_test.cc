// Expected words are those of the format's public description, worked out by hand.
#include "worker/engine/verify/compressed_tensors.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "tests/unit/worker/engine/verify/published_directory.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kUp[] = "model.layers.0.mlp.up_proj";
constexpr char kDown[] = "model.layers.0.mlp.down_proj";

torch::Tensor Row(const std::vector<std::uint32_t>& words) {
  const std::vector<std::int32_t> values(words.begin(), words.end());
  return torch::tensor(values, torch::kInt32).unsqueeze(0);
}

TEST(UnpackCompressedTest, FieldsAreSignedCodesPlusTheMiddle) {
  const auto layer = UnpackCompressed(4, {.weight_packed = Row({0xfea98710}),
                                          .weight_scale = torch::full({1, 1}, 0.5, torch::kFloat16),
                                          .weight_shape = torch::tensor({1, 8}, torch::kInt64),
                                          .weight_zero_point = std::nullopt});
  ASSERT_TRUE(layer.ok()) << layer.status();
  const std::vector<int> signed_codes = {-8, -7, -1, 0, 1, 2, 6, 7};
  for (int column = 0; column < 8; ++column) {
    EXPECT_EQ(layer->weight[0][column].item<float>(),
              0.5F * static_cast<float>(signed_codes[column]));
  }
}

// Codes 0 to 7 four times, as dense 3-bit fields; then a row of 5 codes, 7 6 5 4 3.
TEST(UnpackCompressedTest, ThreeBitFieldsStraddleWordsAndRowsArePadded) {
  const auto layer =
      UnpackCompressed(3, {.weight_packed = Row({0x88fac688, 0xc688fac6, 0xfac688fa}),
                           .weight_scale = torch::ones({1, 1}, torch::kFloat16),
                           .weight_shape = torch::tensor({1, 32}, torch::kInt64),
                           .weight_zero_point = Row({3})});
  ASSERT_TRUE(layer.ok()) << layer.status();
  for (int column = 0; column < 32; ++column) {
    EXPECT_EQ(layer->weight[0][column].item<float>(), static_cast<float>(column % 8 - 3));
  }
  const auto padded = UnpackCompressed(3, {.weight_packed = Row({0x3977}),
                                           .weight_scale = torch::ones({1, 1}, torch::kFloat16),
                                           .weight_shape = torch::tensor({1, 5}, torch::kInt64),
                                           .weight_zero_point = std::nullopt});
  ASSERT_TRUE(padded.ok()) << padded.status();
  for (int column = 0; column < 5; ++column) {
    EXPECT_EQ(padded->codes[0][column].item<int>(), 7 - column);
  }
}

class ReadCompressedTensorsTest : public PublishedDirectoryTest {
 protected:
  ReadCompressedTensorsTest() : PublishedDirectoryTest(ReadCompressedTensorsDirectory) {}

  /// Asymmetric 4 bits in groups of 16; down symmetric, 8 bits, by channel; gate float.
  static PublishedFiles Example() {
    PublishedFiles files = OtherFiles();
    files.config["quantization_config"] = Json::parse(R"j({
      "quant_method": "compressed-tensors", "format": "pack-quantized",
      "quantization_status": "compressed", "kv_cache_scheme": null,
      "ignore": ["lm_head", "re:.*gate_proj$"],
      "config_groups": {
        "group_0": {"targets": ["Linear"], "input_activations": null, "output_activations": null,
          "weights": {"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group",
                      "group_size": 16, "dynamic": false, "actorder": null}},
        "group_1": {"targets": ["model.layers.0.mlp.down_proj"],
          "weights": {"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel",
                      "group_size": null}}}})j");
    for (const auto& [name, shape] : LinearShapes()) {
      const std::int64_t out = shape[0];
      const std::int64_t in = shape[1];
      if (name.ends_with("gate_proj")) {
        files.tensors[name + ".weight"] = torch::ones(shape, torch::kFloat16);
        continue;
      }
      const bool down = name == kDown;
      files.tensors[name + ".weight_packed"] =
          torch::zeros({out, in / (down ? 4 : 8)}, torch::kInt32);
      files.tensors[name + ".weight_scale"] =
          torch::full({out, down ? 1 : in / 16}, 0.25, torch::kFloat16);
      files.tensors[name + ".weight_shape"] = torch::tensor({out, in}, torch::kInt64);
      if (!down) {
        files.tensors[name + ".weight_zero_point"] =
            torch::zeros({out / 8, in / 16}, torch::kInt32);
      }
    }
    return files;
  }

  void ExpectRejected(const std::function<void(PublishedFiles&)>& change,
                      const std::vector<std::string>& messages) {
    PublishedDirectoryTest::ExpectRejected(Example(), change, messages);
  }
};

TEST_F(ReadCompressedTensorsTest, GivesPackedLayersAndTheOtherTensors) {
  PublishedFiles files = Example();
  files.tensors[std::string(kUp) + ".weight_packed"][9][2] = 0x00000070;      // column 17: 7
  files.tensors[std::string(kUp) + ".weight_zero_point"][1][1] = 0x00000020;  // output 9: 2
  files.tensors[std::string(kDown) + ".weight_packed"][3][0] = 0x0000ff00;    // column 1: 255
  const auto model = Read(files);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->layers.size(), 6U);
  EXPECT_EQ(model->tensors.size(), 6U);
  EXPECT_EQ(model->layers.at(kUp).weight[9][17].item<float>(), 0.25F * 5);
  EXPECT_EQ(model->layers.at(kUp).weight[9][18].item<float>(), 0.25F * -2);
  EXPECT_EQ(model->layers.at(kDown).weight[3][1].item<float>(), 0.25F * 127);
  EXPECT_EQ(model->layers.at(kDown).weight[3][2].item<float>(), 0.25F * -128);
}

TEST_F(ReadCompressedTensorsTest, EverySettingThatLoadersReadIsChecked) {
  const auto set = [](const char* pointer, const Json& value) {
    return [pointer, value](PublishedFiles& files) {
      files.config["quantization_config"][Json::json_pointer(pointer)] = value;
    };
  };
  const std::string weights = "/config_groups/group_0/weights/";
  ExpectRejected(set("/quant_method", "awq"), {"quant_method is \"awq\""});
  ExpectRejected(set("/format", "int-quantized"), {"format is \"int-quantized\""});
  ExpectRejected(set("/quantization_status", "frozen"), {"quantization_status is \"frozen\""});
  ExpectRejected(set("/ignore", "lm_head"), {"ignore is \"lm_head\""});
  ExpectRejected(set("/ignore/0", "re:("), {"re:(", "no regular expression"});
  ExpectRejected(set("/config_groups", Json::object()), {"config_groups is {}"});
  ExpectRejected(set("/config_groups/group_0/targets", Json::array()), {"targets is []"});
  ExpectRejected(set("/config_groups/group_0/input_activations", Json::object()),
                 {"group_0", "input_activations is {}; expected null"});
  ExpectRejected(set((weights + "num_bits").c_str(), 5), {"num_bits is 5"});
  ExpectRejected(set((weights + "type").c_str(), "float"), {"type is \"float\""});
  ExpectRejected(set((weights + "symmetric").c_str(), nullptr), {"symmetric is null"});
  ExpectRejected(set((weights + "strategy").c_str(), "tensor"), {"strategy is \"tensor\""});
  ExpectRejected(set((weights + "strategy").c_str(), "channel"),
                 {"group_size is 16; expected null, as strategy is channel"});
  ExpectRejected(set((weights + "actorder").c_str(), "group"), {"actorder is \"group\""});
  ExpectRejected(set((weights + "group_size").c_str(), 32),
                 {"groups of 16 columns, but config.json says 32"});
}

TEST_F(ReadCompressedTensorsTest, TwoGroupsThatFitOneLayerAreRejected) {
  ExpectRejected(
      [](PublishedFiles& files) {
        files.config["quantization_config"]["config_groups"]["group_0"]["targets"].push_back(
            "re:.*down_proj");
      },
      {kDown, "group_0 and group_1 both fit"});
}

TEST_F(ReadCompressedTensorsTest, FloatAndPackedLayersMustBeThoseOfTheConfig) {
  ExpectRejected(
      [](PublishedFiles& files) { files.config["quantization_config"]["ignore"] = {"lm_head"}; },
      {"gate_proj", "weight: is float, but config.json says that the layer is packed"});
  ExpectRejected(
      [](PublishedFiles& files) {
        files.config["quantization_config"]["ignore"] = {"re:.*gate_proj$"};
      },
      {"layer lm_head", "weight: is float"});
  ExpectRejected(
      [](PublishedFiles& files) {
        files.config["quantization_config"]["ignore"].push_back("re:.*up_proj");
      },
      {kUp, "is there, but config.json says that the layer is float"});
}

TEST_F(ReadCompressedTensorsTest, ZeroPointsAreThereExactlyWhereTheLayerIsAsymmetric) {
  ExpectRejected(
      [](PublishedFiles& files) { files.tensors.erase(std::string(kUp) + ".weight_zero_point"); },
      {kUp, "weight_zero_point"});
  ExpectRejected(
      [](PublishedFiles& files) {
        files.tensors[std::string(kDown) + ".weight_zero_point"] =
            torch::zeros({8, 1}, torch::kInt32);
      },
      {kDown, "is there, but config.json says that the layer is symmetric"});
}

TEST_F(ReadCompressedTensorsTest, PartsOfAnotherFormAreNamed) {
  const auto part = [](const char* name) { return kUp + (std::string(".") + name); };
  for (const char* name : {"weight_packed", "weight_scale", "weight_shape"}) {
    ExpectRejected([&](PublishedFiles& files) { files.tensors.erase(part(name)); }, {kUp, name});
  }
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("weight_shape")] = torch::tensor({64, 31}, torch::kInt64);
      },
      {kUp, "weight_shape: is 64 x 31"});
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("weight_shape")] = torch::tensor({-64, 32}, torch::kInt64);
      },
      {kUp, "weight_shape: is -64 x 32"});
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("weight_packed")] = torch::zeros({64, 5}, torch::kInt32);
      },
      {kUp, "weight_packed: has shape [64, 5]; expected [64, 4]"});
  ExpectRejected(
      [&](PublishedFiles& files) {
        files.tensors[part("weight_zero_point")] = torch::zeros({9, 2}, torch::kInt32);
      },
      {kUp, "weight_zero_point: has shape [9, 2]; expected [8, 2]"});
}

}  // namespace
}  // namespace teq::verify
