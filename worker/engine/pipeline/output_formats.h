#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "teq/v1/job.pb.h"
#include "torch/types.h"
#include "worker/engine/pack/packable_model.h"
#include "worker/engine/quant/grid.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::pipeline {

/// Where the GPTQ checkpoint lies under the output.
inline constexpr const char* kGptqDirectory = "gptq";

/// How a format is written and read back, and what it may do to the values: a row of the table in
/// output_formats.cc.
struct OutputFormat {
  teq::v1::Format format = teq::v1::FORMAT_UNSPECIFIED;
  const char* directory = "";  // under the output

  /// Whether the source's files beside its weights can be written so, before the work begins.
  absl::Status (*check)(const std::filesystem::path& source,
                        const model_info::ModelConfig& config) = nullptr;

  /// Writes a directory and returns every file's sha256.
  absl::StatusOr<std::map<std::string, std::string>> (*write)(
      const pack::PackableModel& model, const std::filesystem::path& directory) = nullptr;

  /// Reads it back by code that shares nothing with the writer, under the source's names.
  absl::StatusOr<verify::PackedModel> (*read)(const std::filesystem::path& directory,
                                              const model_info::ModelConfig& config) = nullptr;

  /// The weights that a layer must read back as; null: those that its codes stand for.
  torch::Tensor (*expected)(const quant::Quantized& rounded, torch::ScalarType published) = nullptr;

  /// How far each weight may be from that, because the format rounds what it stores; null: it does
  /// not.
  torch::Tensor (*slack)(const quant::Quantized& rounded) = nullptr;

  /// Of a larger model it holds the decoder alone.
  bool decoder_only = false;
};

/// INVALID_ARGUMENT, UNSUPPORTED_FORMAT, for one that this engine does not write.
[[nodiscard]] absl::StatusOr<const OutputFormat*> FindOutputFormat(teq::v1::Format format);

/// A format's directory as it was read back.
struct ReadBack {
  verify::PackedModel packed;
  bool exact = true;  // every value is the one that was to be written
};

/// Reads a directory and compares every layer and every other tensor with the model that it was
/// written from. DATA_LOSS, VERIFY_FAILED: one is missing, one more is there, or one differs by
/// more than the format's rounding.
[[nodiscard]] absl::StatusOr<ReadBack> ReadOutput(const OutputFormat& format,
                                                  const pack::PackableModel& model,
                                                  const std::filesystem::path& directory);

/// A tensor of the source's checkpoint, in its name and layout, from what was read back. DATA_LOSS,
/// VERIFY_FAILED, where it is not there.
[[nodiscard]] absl::StatusOr<torch::Tensor> TensorOf(const verify::PackedModel& packed,
                                                     const model_info::ModelConfig& config,
                                                     const std::string& name);

}  // namespace teq::pipeline
