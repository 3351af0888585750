#include "worker/engine/verify/dequantized.h"

#include <limits>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "tests/unit/worker/engine/verify/published_directory.h"

namespace teq::verify {
namespace {

constexpr char kUp[] = "model.layers.0.mlp.up_proj";

const std::string kUpWeight = fmt::format("{}.weight", kUp);

class ReadDequantizedTest : public PublishedDirectoryTest {
 protected:
  ReadDequantizedTest() : PublishedDirectoryTest(ReadDequantizedDirectory) {}

  static PublishedFiles Example() {
    PublishedFiles files = OtherFiles();
    for (const auto& [name, shape] : LinearShapes()) {
      files.tensors[name + ".weight"] = torch::ones(shape, torch::kFloat16);
    }
    return files;
  }
};

TEST_F(ReadDequantizedTest, GivesWeightsAndTheOtherTensors) {
  PublishedFiles files = Example();
  files.tensors[kUpWeight][5][7] = 0.375;
  const auto model = Read(files);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->layers.size(), 7U);
  EXPECT_EQ(model->tensors.size(), 5U);
  EXPECT_EQ(model->layers.at(kUp).weight[5][7].item<float>(), 0.375F);
  EXPECT_FALSE(model->layers.at(kUp).codes.defined());
}

TEST_F(ReadDequantizedTest, WhatALoaderWouldMisreadIsRejected) {
  ExpectRejected(Example(),
                 [](PublishedFiles& files) {
                   files.config["quantization_config"] = {{"bits", 4}};
                 },
                 {"config.json: has a quantization_config"});
  ExpectRejected(Example(), [](PublishedFiles& files) { files.config["torch_dtype"] = "bfloat16"; },
                 {"torch_dtype is \"bfloat16\", but the weights are float16"});
  ExpectRejected(Example(), [](PublishedFiles& files) { files.config["dtype"] = "float32"; },
                 {"dtype is \"float32\", but the weights are float16"});
  ExpectRejected(Example(), [](PublishedFiles& files) { files.tensors.erase(kUpWeight); },
                 {"tensor model.layers.0.mlp.up_proj.weight is missing"});
  ExpectRejected(Example(),
                 [](PublishedFiles& files) {
                   torch::Tensor& weight = files.tensors[kUpWeight];
                   weight = weight.t().contiguous();
                 },
                 {"up_proj.weight has shape [32, 64]; config.json needs [64, 32]"});
  ExpectRejected(Example(),
                 [](PublishedFiles& files) {
                   files.tensors[kUpWeight][1][2] = std::numeric_limits<float>::quiet_NaN();
                 },
                 {"up_proj.weight: is not finite at [1, 2]"});
}

}  // namespace
}  // namespace teq::verify
