// Against formulas worked out by hand; tests/integration/estimate_test compares with real files.
#include "client/model_info/output_size.h"

#include <gtest/gtest.h>

#include "tests/unit/client/model_info/tiny_job.h"

namespace teq::model_info {
namespace {

// Of Llama-7B: weights in layers, groups of 128, inputs of all layers, and what stays float.
constexpr double kWeights = 32.0 * (4 * 4096 * 4096 + 3 * 4096 * 11008);
constexpr double kGroups = kWeights / 128;
constexpr double kInputs = 32.0 * (6 * 4096 + 11008);
constexpr double kFloats = 2 * 32000.0 * 4096 + 65 * 4096;

double Bytes(teq::v1::Format format, int bits, bool symmetric) {
  teq::v1::JobSpec asked;
  asked.mutable_recipe()->mutable_weights()->set_bits(bits);
  asked.mutable_recipe()->mutable_weights()->set_symmetric(symmetric);
  const teq::v1::JobSpec spec = WithDefaults(asked);
  const ModelConfig config = Llama7B();
  return static_cast<double>(
      OutputBytes(format, spec.recipe(), config, PlanLayers(spec, config).value()));
}

// A header takes about 100 bytes for each of some 1000 tensors.
constexpr double kHeader = 2e5;

TEST(OutputSizeTest, GptqStoresCodesZerosScalesAndGroupIndices) {
  for (const int bits : {2, 3, 4, 8}) {
    EXPECT_NEAR(Bytes(teq::v1::FORMAT_GPTQ, bits, false),
                (kWeights + kGroups) * bits / 8 + 2 * kGroups + 4 * kInputs + 2 * kFloats, kHeader);
  }
}

TEST(OutputSizeTest, AwqHasNoGroupIndices) {
  EXPECT_NEAR(Bytes(teq::v1::FORMAT_AWQ, 4, false),
              (kWeights + kGroups) / 2 + 2 * kGroups + 2 * kFloats, kHeader);
}

TEST(OutputSizeTest, CompressedTensorsHasZerosOnlyWhereAsymmetric) {
  const double symmetric = kWeights * 3 / 8 + 2 * kGroups + 2 * kFloats;
  EXPECT_NEAR(Bytes(teq::v1::FORMAT_COMPRESSED_TENSORS, 3, true), symmetric, kHeader);
  EXPECT_NEAR(Bytes(teq::v1::FORMAT_COMPRESSED_TENSORS, 3, false), symmetric + kGroups * 3 / 8,
              kHeader);
}

TEST(OutputSizeTest, GgufStoresBlocksAndNormsInFloat32) {
  const double floats = 2 * kFloats + 2 * 65 * 4096;
  EXPECT_EQ(Bytes(teq::v1::FORMAT_GGUF, 4, true), kWeights / 32 * 18 + floats);
  EXPECT_EQ(Bytes(teq::v1::FORMAT_GGUF, 4, false), kWeights / 32 * 20 + floats);
  EXPECT_EQ(Bytes(teq::v1::FORMAT_GGUF, 8, true), kWeights / 32 * 34 + floats);
}

TEST(OutputSizeTest, DequantizedIsTheModelInHalfPrecision) {
  EXPECT_NEAR(Bytes(teq::v1::FORMAT_DEQUANTIZED, 4, false), 2.0 * 6'738'415'616, kHeader);
}

TEST(OutputSizeTest, TargetBitsCountAsTheyAreOnAverage) {
  teq::v1::JobSpec asked;
  asked.mutable_recipe()->mutable_weights()->set_target_bits(3.5);
  const teq::v1::JobSpec spec = WithDefaults(asked);
  const ModelConfig config = Llama7B();
  const auto plan = PlanLayers(spec, config).value();
  EXPECT_NEAR(static_cast<double>(OutputBytes(teq::v1::FORMAT_GPTQ, spec.recipe(), config, plan)),
              (kWeights + kGroups) * 3.5 / 8 + 2 * kGroups + 4 * kInputs + 2 * kFloats, kHeader);
}

}  // namespace
}  // namespace teq::model_info
