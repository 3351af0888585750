#include "worker/engine/pipeline/output_formats.h"

#include <cstring>
#include <set>
#include <string_view>

#include "client/model_info/layout.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "worker/engine/pack/awq.h"
#include "worker/engine/pack/checkpoint_directory.h"
#include "worker/engine/pack/compressed_tensors.h"
#include "worker/engine/pack/dequantized.h"
#include "worker/engine/pack/gguf.h"
#include "worker/engine/pack/gptq.h"
#include "worker/engine/verify/awq.h"
#include "worker/engine/verify/compressed_tensors.h"
#include "worker/engine/verify/dequantized.h"
#include "worker/engine/verify/gguf.h"

namespace teq::pipeline {
namespace {

using torch::Tensor;

absl::StatusOr<verify::PackedModel> ReadGptq(const std::filesystem::path& directory,
                                             const model_info::ModelConfig& /*config*/) {
  return verify::ReadGptqDirectory(directory);
}

Tensor RoundedToPublished(const quant::Quantized& rounded, torch::ScalarType published) {
  return quant::Dequantize(rounded).to(torch::kCPU, published).to(torch::kFloat32);
}

/// GGUF's Q4_1 holds -zero * scale in float16, rounded by at most 2^-11 of it. Its other types are
/// exact; their difference is compared with this too, but they make none.
Tensor HalfOfOffset(const quant::Quantized& rounded) {
  const Tensor offset = rounded.zeros.to(torch::kFloat32) * rounded.scales.to(torch::kFloat32);
  const std::int64_t group = rounded.codes.size(1) / rounded.scales.size(1);
  return offset.abs().mul(1.0 / 2048).repeat_interleave(group, 1);
}

constexpr OutputFormat kFormats[] = {
    {.format = teq::v1::FORMAT_GPTQ,
     .directory = kGptqDirectory,
     .check = pack::CheckCompanions,
     .write = pack::WriteGptqDirectory,
     .read = ReadGptq},
    {.format = teq::v1::FORMAT_AWQ,
     .directory = "awq",
     .check = pack::CheckCompanions,
     .write = pack::WriteAwqDirectory,
     .read = verify::ReadAwqDirectory},
    {.format = teq::v1::FORMAT_COMPRESSED_TENSORS,
     .directory = "compressed_tensors",
     .check = pack::CheckCompanions,
     .write = pack::WriteCompressedTensorsDirectory,
     .read = verify::ReadCompressedTensorsDirectory},
    {.format = teq::v1::FORMAT_GGUF,
     .directory = "gguf",
     .check = pack::CheckGgufTokenizer,
     .write = pack::WriteGgufDirectory,
     .read = verify::ReadGgufDirectory,
     .slack = HalfOfOffset,
     .decoder_only = true},
    {.format = teq::v1::FORMAT_DEQUANTIZED,
     .directory = "dequantized",
     .check = pack::CheckCompanions,
     .write = pack::WriteDequantizedDirectory,
     .read = verify::ReadDequantizedDirectory,
     .expected = RoundedToPublished},
};

absl::Status Differs(std::string_view what) {
  return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED", what);
}

/// Whether the layer is exactly what was rounded; an error where the format does not explain the
/// difference.
absl::StatusOr<bool> CompareLayer(const OutputFormat& format, const std::string& name,
                                  const quant::Quantized& rounded, torch::ScalarType published,
                                  const verify::PackedModel& packed) {
  const auto found = packed.layers.find(name);
  if (found == packed.layers.end()) return Differs(fmt::format("layer {} is missing", name));
  TEQ_ASSIGN_OR_RETURN(const verify::UnpackedLayer layer, found->second());
  const Tensor& weight = layer.weight;
  const Tensor meant = quant::Dequantize(rounded).to(torch::kCPU);
  if (torch::equal(weight, meant)) return true;
  const Tensor expected = format.expected == nullptr ? meant : format.expected(rounded, published);
  bool holds = torch::equal(weight, expected);
  if (!holds && format.slack != nullptr && weight.sizes() == expected.sizes()) {
    const Tensor slack = format.slack(rounded).to(torch::kCPU);
    holds = (weight - expected).abs().le(slack).all().item<bool>();
  }
  if (holds) return false;
  return Differs(fmt::format("layer {} does not read back as it was rounded", name));
}

/// The same for a tensor that is not rounded.
absl::StatusOr<bool> CompareFloat(const std::string& name, const Tensor& value,
                                  const Tensor& found) {
  if (found.scalar_type() == value.scalar_type() && torch::equal(found, value)) return true;
  const Tensor read = found.to(torch::kFloat32);
  if (torch::equal(read, value.to(torch::kFloat32))) return true;
  return Differs(fmt::format("tensor {} does not read back as it was written", name));
}

/// The same for one of another part of the model, which may hold anything, such as no numbers.
absl::Status CompareOther(const verify::PackedModel& packed, const std::string& name,
                          const Tensor& value) {
  const auto found = packed.tensors.find(name);
  if (found == packed.tensors.end()) return Differs(fmt::format("tensor {} is missing", name));
  TEQ_ASSIGN_OR_RETURN(const Tensor read, found->second());
  if (read.scalar_type() == value.scalar_type() && read.sizes() == value.sizes() &&
      std::memcmp(read.data_ptr(), value.data_ptr(), value.nbytes()) == 0) {
    return absl::OkStatus();
  }
  return Differs(fmt::format("tensor {} does not read back as it was written", name));
}

absl::StatusOr<ReadBack> Compare(const OutputFormat& format, const pack::PackableModel& model,
                                 verify::PackedModel packed) {
  ReadBack back{.packed = std::move(packed)};
  const torch::ScalarType published = pack::FloatType(model);
  for (const auto& [name, rounded] : model.layers) {
    TEQ_ASSIGN_OR_RETURN(const bool exact,
                         CompareLayer(format, name, rounded, published, back.packed));
    back.exact = back.exact && exact;
  }
  const std::string head = model_info::HeadName(model.config) + ".weight";
  const std::string embedding =
      model_info::ModuleName(model.config, model.config.names.embedding) + ".weight";
  std::set<std::string_view> floats;
  for (const auto& [name, value] : model.floats) {
    floats.insert(name);
    TEQ_ASSIGN_OR_RETURN(const Tensor found, TensorOf(back.packed, model.config, name));
    TEQ_ASSIGN_OR_RETURN(const bool exact, CompareFloat(name, value, found));
    back.exact = back.exact && exact;
  }
  if (!format.decoder_only) {
    for (const auto& [name, value] : model.other_tensors) {
      floats.insert(name);
      TEQ_RETURN_IF_ERROR(CompareOther(back.packed, name, value));
    }
  }
  // A tied matrix may be read back under both of its names.
  if (model.config.tied_embeddings) {
    floats.insert({head, embedding});
  }
  for (const auto& [name, tensor] : back.packed.tensors) {
    if (!floats.contains(name)) return Differs(fmt::format("tensor {} is not the model's", name));
  }
  return back;
}

}  // namespace

absl::StatusOr<const OutputFormat*> FindOutputFormat(teq::v1::Format format) {
  for (const OutputFormat& row : kFormats) {
    if (row.format == format) return &row;
  }
  return Error(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_FORMAT",
               fmt::format("output.formats: this engine does not write {}",
                           ShortEnumName(teq::v1::Format_descriptor(), format)));
}

absl::StatusOr<ReadBack> ReadOutput(const OutputFormat& format, const pack::PackableModel& model,
                                    const std::filesystem::path& directory) {
  TEQ_ASSIGN_OR_RETURN(verify::PackedModel packed, format.read(directory, model.config));
  absl::StatusOr<ReadBack> back = Compare(format, model, std::move(packed));
  if (!back.ok()) return WithContext(back.status(), directory.string());
  return back;
}

absl::StatusOr<Tensor> TensorOf(const verify::PackedModel& packed,
                                const model_info::ModelConfig& config, const std::string& name) {
  constexpr std::string_view kSuffix = ".weight";
  if (name.ends_with(kSuffix)) {
    const auto found = packed.layers.find(name.substr(0, name.size() - kSuffix.size()));
    if (found != packed.layers.end()) {
      TEQ_ASSIGN_OR_RETURN(const verify::UnpackedLayer layer, found->second());
      return config.transposed_linears ? layer.weight.t() : layer.weight;
    }
  }
  const auto tensor = packed.tensors.find(name);
  if (tensor != packed.tensors.end()) return tensor->second();
  return Differs(fmt::format("tensor {} is missing", name));
}

}  // namespace teq::pipeline
