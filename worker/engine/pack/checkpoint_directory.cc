#include "worker/engine/pack/checkpoint_directory.h"

#include <algorithm>
#include <system_error>

#include "client/model_info/model_files.h"
#include "client/objects/publication.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/checkpoint/checkpoint.h"

namespace teq::pack {
namespace {

using Json = nlohmann::ordered_json;

std::string_view TypeName(torch::ScalarType type) {
  return type == torch::kBFloat16 ? "bfloat16" : "float16";
}

absl::Status CopyFile(const std::filesystem::path& from, const std::filesystem::path& to) {
  TEQ_ASSIGN_OR_RETURN(const std::string content, objects::ReadFile(from));
  return objects::WriteFileAtomically(to, content);
}

absl::Status CopyCompanions(const PackableModel& model, const std::filesystem::path& directory) {
  for (const std::string_view name : model_info::kCompanionFiles) {
    if (!std::filesystem::exists(model.source / name)) continue;
    TEQ_RETURN_IF_ERROR(CopyFile(model.source / name, directory / name));
  }
  return absl::OkStatus();
}

absl::Status WriteConfig(const PackableModel& model, const Json& quantization,
                         const std::filesystem::path& directory) {
  Json config = model.config.source;
  // The newer name counts where both are there.
  if (config.contains("dtype")) config["dtype"] = TypeName(FloatType(model));
  config["torch_dtype"] = TypeName(FloatType(model));
  if (!quantization.is_null()) config["quantization_config"] = quantization;
  return objects::WriteFileAtomically(directory / "config.json", config.dump(2) + "\n");
}

absl::Status WriteWeights(const PackableModel& model, const LayerTensors& layer_tensors,
                          const std::filesystem::path& directory) {
  ShardWriter writer(directory, model.shard_bytes);
  for (const auto& [name, tensor] : model.floats) TEQ_RETURN_IF_ERROR(writer.Add(name, tensor));
  for (const auto& [layer, quantized] : model.layers) {
    TEQ_ASSIGN_OR_RETURN(const auto tensors, layer_tensors(layer, quantized));
    for (const auto& [name, tensor] : tensors) {
      TEQ_RETURN_IF_ERROR(writer.Add(name, tensor));
    }
  }
  return writer.Finish();
}

absl::StatusOr<std::map<std::string, std::string>> FileDigests(
    const std::filesystem::path& directory) {
  std::map<std::string, std::string> digests;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    TEQ_ASSIGN_OR_RETURN(digests[entry.path().filename().string()],
                         objects::FileSha256(entry.path()));
  }
  return digests;
}

std::string PartName(std::size_t shard) { return fmt::format("shard-{:05}.part", shard + 1); }

}  // namespace

absl::Status ShardWriter::Add(const std::string& name, const torch::Tensor& tensor) {
  if (!pending_.empty() && pending_bytes_ + tensor.nbytes() > shard_bytes_) {
    TEQ_RETURN_IF_ERROR(Flush());
  }
  pending_.emplace_back(name, tensor);
  pending_bytes_ += tensor.nbytes();
  total_bytes_ += tensor.nbytes();
  return absl::OkStatus();
}

// A shard's name holds how many there are, which only the last one knows.
absl::Status ShardWriter::Flush() {
  TEQ_RETURN_IF_ERROR(
      checkpoint::WriteSafetensors(directory_ / PartName(shards_.size()), pending_));
  std::vector<std::string>& names = shards_.emplace_back();
  for (const auto& [name, tensor] : pending_) names.push_back(name);
  pending_.clear();
  pending_bytes_ = 0;
  return absl::OkStatus();
}

absl::Status ShardWriter::Finish() {
  TEQ_RETURN_IF_ERROR(Flush());
  Json weight_map = Json::object();
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    const std::string file = shards_.size() == 1 ? "model.safetensors"
                                                 : fmt::format("model-{:05}-of-{:05}.safetensors",
                                                               shard + 1, shards_.size());
    std::error_code error;
    std::filesystem::rename(directory_ / PartName(shard), directory_ / file, error);
    if (error) return objects::WriteError(error.value(), directory_ / file, 0);
    for (const std::string& name : shards_[shard]) weight_map[name] = file;
  }
  if (shards_.size() == 1) return absl::OkStatus();
  const Json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", weight_map}};
  return objects::WriteFileAtomically(directory_ / "model.safetensors.index.json",
                                      index.dump(2) + "\n");
}

torch::ScalarType FloatType(const PackableModel& model) {
  std::map<torch::ScalarType, std::int64_t> values;
  for (const auto& [name, tensor] : model.floats) values[tensor.scalar_type()] += tensor.numel();
  const auto most =
      std::max_element(values.begin(), values.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first;
}

std::vector<std::string> FloatLinears(const PackableModel& model) {
  std::vector<std::string> names = {std::string(model.config.names.head)};
  for (const std::string_view outer :
       {model.config.names.project_in, model.config.names.project_out}) {
    if (!outer.empty()) names.push_back(model_info::ModuleName(model.config, outer));
  }
  for (const model_info::PlannedLayer& planned : model.plan) {
    if (!planned.grid.quantized) names.push_back(planned.layer.name);
  }
  return names;
}

std::string ModulePattern(const model_info::ModelConfig& config, std::string_view name) {
  std::string pattern = config.prefix.empty() ? "^(?:.*\\.)?" : "^";
  for (const char c : name) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

absl::StatusOr<std::map<std::string, std::string>> WriteCheckpointDirectory(
    const PackableModel& model, const Json& quantization, const LayerTensors& layer_tensors,
    const std::filesystem::path& directory) {
  TEQ_RETURN_IF_ERROR(WriteConfig(model, quantization, directory));
  TEQ_RETURN_IF_ERROR(WriteWeights(model, layer_tensors, directory));
  TEQ_RETURN_IF_ERROR(CopyCompanions(model, directory));
  return FileDigests(directory);
}

}  // namespace teq::pack
