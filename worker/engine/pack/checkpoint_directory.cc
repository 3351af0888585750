#include "worker/engine/pack/checkpoint_directory.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <system_error>
#include <tuple>

#include "client/model_info/model_files.h"
#include "client/objects/publication.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/checkpoint/checkpoint.h"

namespace teq::pack {
namespace {

using checkpoint::TensorEntry;
using Json = nlohmann::ordered_json;
using Digests = std::map<std::string, std::string>;  // sha256 by file name

constexpr const char* kAnyPrefix = "^(?:.*\\.)?";

std::string_view TypeName(torch::ScalarType type) {
  return type == torch::kBFloat16 ? "bfloat16" : "float16";
}

absl::Status WriteText(const std::filesystem::path& file, std::string_view text, Digests& digests) {
  digests[file.filename().string()] = objects::Sha256(text);
  return objects::WriteFileAtomically(file, text);
}

absl::Status CopyCompanions(const PackableModel& model, const std::filesystem::path& directory,
                            Digests& digests) {
  for (const std::string_view name : model_info::kCompanionFiles) {
    const absl::StatusOr<std::string> content = objects::ReadFile(model.source / name);
    if (absl::IsNotFound(content.status())) continue;
    if (!content.ok()) return content.status();
    TEQ_RETURN_IF_ERROR(WriteText(directory / name, *content, digests));
  }
  return absl::OkStatus();
}

absl::Status WriteConfig(const PackableModel& model, const Json& quantization,
                         const std::filesystem::path& directory, Digests& digests) {
  Json config = model.config.source;
  const std::string_view type = TypeName(FloatType(model));
  config["torch_dtype"] = type;
  // The newer name counts where both are there.
  if (config.contains("dtype")) config["dtype"] = type;
  if (model.config.is_part) {
    Json& decoder = config["text_config"];
    for (const char* key : {"torch_dtype", "dtype"}) {
      if (decoder.contains(key)) decoder[key] = type;
    }
  }
  // Names Python files that are not published; the families that are known need none.
  config.erase("auto_map");
  config.erase("quantization_config");  // some sources have a null
  if (!quantization.is_null()) config["quantization_config"] = quantization;
  return WriteText(directory / "config.json", config.dump(2) + "\n", digests);
}

/// What the tensors of layers will be. Layers of one grid and shape have tensors alike, so one of
/// them is packed to see.
class LayerEntries {
 public:
  LayerEntries(const PackableModel& model, const LayerTensors& layer_tensors)
      : layer_tensors_(layer_tensors) {
    for (const model_info::PlannedLayer& planned : model.plan) {
      keys_[planned.layer.name] = {planned.grid.bits, planned.grid.group_size,
                                   planned.grid.symmetric, planned.layer.out, planned.layer.in};
    }
  }

  absl::StatusOr<std::vector<TensorEntry>> Of(const std::string& layer,
                                              const quant::Quantized& quantized) {
    const auto [found, is_new] = known_.try_emplace(keys_.at(layer));
    if (is_new) {
      TEQ_ASSIGN_OR_RETURN(const auto tensors, layer_tensors_(layer, quantized));
      for (const auto& [name, tensor] : tensors) {
        found->second.push_back(checkpoint::EntryOf(name.substr(layer.size()), tensor));
      }
    }
    std::vector<TensorEntry> entries = found->second;
    for (TensorEntry& entry : entries) entry.name.insert(0, layer);
    return entries;
  }

 private:
  using Key = std::tuple<int, std::int64_t, bool, std::int64_t, std::int64_t>;  // grid and shape
  const LayerTensors& layer_tensors_;
  std::map<std::string, Key> keys_;                // by layer
  std::map<Key, std::vector<TensorEntry>> known_;  // names without the layer's
};

/// Which tensors each file has, in the order in which they are written.
std::vector<std::vector<TensorEntry>> Shards(const std::vector<TensorEntry>& entries,
                                             std::uint64_t shard_bytes) {
  std::vector<std::vector<TensorEntry>> shards(1);
  std::uint64_t bytes = 0;
  for (const TensorEntry& entry : entries) {
    const std::uint64_t size = checkpoint::ByteSizeOf(entry);
    if (!shards.back().empty() && bytes + size > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(entry);
    bytes += size;
  }
  return shards;
}

/// Tensors that come in the order of all shards' entries, each to its file.
class ShardWriter {
 public:
  ShardWriter(std::filesystem::path directory, std::vector<std::vector<TensorEntry>> shards,
              Digests& digests)
      : directory_(std::move(directory)), shards_(std::move(shards)), digests_(digests) {}

  absl::Status Add(const torch::Tensor& tensor) {
    if (!writer_ || next_ == shards_[shard_].size()) TEQ_RETURN_IF_ERROR(OpenNext());
    ++next_;
    return writer_->Add(tensor);
  }

  absl::Status Finish() {
    if (!writer_) TEQ_RETURN_IF_ERROR(OpenNext());
    TEQ_ASSIGN_OR_RETURN(digests_[FileName(shard_)], writer_->Finish());
    return shards_.size() == 1 ? absl::OkStatus() : WriteIndex();
  }

 private:
  absl::Status OpenNext() {
    if (writer_) {
      TEQ_ASSIGN_OR_RETURN(digests_[FileName(shard_)], writer_->Finish());
      ++shard_;
      next_ = 0;
    }
    TEQ_ASSIGN_OR_RETURN(writer_, checkpoint::SafetensorsWriter::Create(
                                      directory_ / FileName(shard_), shards_[shard_]));
    return absl::OkStatus();
  }

  [[nodiscard]] std::string FileName(std::size_t shard) const {
    if (shards_.size() == 1) return "model.safetensors";
    return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards_.size());
  }

  [[nodiscard]] absl::Status WriteIndex() const {
    std::uint64_t total = 0;
    Json weight_map = Json::object();
    // Names differ, which operator[] would find out anew for each by looking at all before it.
    auto& file_of = weight_map.get_ref<Json::object_t&>();
    for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
      for (const TensorEntry& entry : shards_[shard]) {
        file_of.emplace_back(entry.name, FileName(shard));
        total += checkpoint::ByteSizeOf(entry);
      }
    }
    const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
    return WriteText(directory_ / "model.safetensors.index.json", index.dump(2) + "\n", digests_);
  }

  std::filesystem::path directory_;
  std::vector<std::vector<TensorEntry>> shards_;
  Digests& digests_;
  std::optional<checkpoint::SafetensorsWriter> writer_;  // of shards_[shard_]
  std::size_t shard_ = 0;
  std::size_t next_ = 0;  // entry of it
};

absl::Status WriteWeights(const PackableModel& model, const LayerTensors& layer_tensors,
                          const std::filesystem::path& directory, Digests& digests) {
  std::vector<TensorEntry> entries;
  for (const auto* tensors : {&model.floats, &model.other_tensors}) {
    for (const auto& [name, tensor] : *tensors) {
      entries.push_back(checkpoint::EntryOf(name, tensor));
    }
  }
  LayerEntries layer_entries(model, layer_tensors);
  for (const auto& [layer, quantized] : model.layers) {
    TEQ_ASSIGN_OR_RETURN(std::vector<TensorEntry> of_layer, layer_entries.Of(layer, quantized));
    std::ranges::move(of_layer, std::back_inserter(entries));
  }
  // The header of a file comes first and says what is in it; so all that is known by now.
  ShardWriter writer(directory, Shards(entries, model.shard_bytes), digests);
  for (const auto* tensors : {&model.floats, &model.other_tensors}) {
    for (const auto& [name, tensor] : *tensors) TEQ_RETURN_IF_ERROR(writer.Add(tensor));
  }
  for (const auto& [layer, quantized] : model.layers) {
    TEQ_ASSIGN_OR_RETURN(const auto tensors, layer_tensors(layer, quantized));
    for (const auto& [name, tensor] : tensors) TEQ_RETURN_IF_ERROR(writer.Add(tensor));
  }
  return writer.Finish();
}

}  // namespace

torch::ScalarType FloatType(const PackableModel& model) {
  std::map<torch::ScalarType, std::int64_t> values;
  for (const auto& [name, tensor] : model.floats) values[tensor.scalar_type()] += tensor.numel();
  const auto most =
      std::max_element(values.begin(), values.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first;
}

std::vector<std::string> OuterLinears(const model_info::ModelConfig& config) {
  std::vector<std::string> names = {model_info::HeadName(config)};
  for (const std::string_view outer : {config.names.project_in, config.names.project_out}) {
    if (!outer.empty()) names.push_back(model_info::ModuleName(config, outer));
  }
  return names;
}

std::string ModulePattern(const model_info::ModelConfig& config, std::string_view name) {
  std::string pattern = config.is_part || config.prefix.empty() ? kAnyPrefix : "^";
  // Not the vision tower's, whose layers may have the same names.
  if (config.is_part && name != model_info::HeadName(config)) {
    pattern += "language_model\\.(?:model\\.)?";
  }
  for (const char c : NameInPart(config, name)) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

std::string PartPattern(std::string_view part) {
  return fmt::format("{}{}(?:\\..*)?$", kAnyPrefix, part);
}

std::string_view NameInPart(const model_info::ModelConfig& config, std::string_view name) {
  if (!config.is_part) return name;
  if (name == model_info::HeadName(config)) return config.names.head;
  return name.substr(config.prefix.size());
}

absl::Status CheckCompanions(const std::filesystem::path& source,
                             const model_info::ModelConfig& /*config*/) {
  for (const std::string_view name : model_info::kCompanionFiles) {
    const absl::Status status = objects::ReadFile(source / name).status();
    if (status.ok() || absl::IsNotFound(status)) continue;
    std::error_code ignored;
    // A disk may fail for a moment; this stays.
    if (!std::filesystem::is_directory(source / name, ignored)) return status;
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_CHECKPOINT",
                 fmt::format("{}: is a directory, and would be published with the weights as a "
                             "file; rename or remove it",
                             (source / name).string()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, std::string>> WriteCheckpointDirectory(
    const PackableModel& model, const Json& quantization, const LayerTensors& layer_tensors,
    const std::filesystem::path& directory) {
  Digests digests;
  TEQ_RETURN_IF_ERROR(WriteConfig(model, quantization, directory, digests));
  TEQ_RETURN_IF_ERROR(WriteWeights(model, layer_tensors, directory, digests));
  TEQ_RETURN_IF_ERROR(CopyCompanions(model, directory, digests));
  return digests;
}

}  // namespace teq::pack
