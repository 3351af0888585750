#include "worker/engine/model/decoder.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "proto/spec/error.h"
#include "worker/engine/checkpoint/checkpoint.h"

namespace teq::model {
namespace {

using model_info::ModelConfig;
using model_info::NormPlace;
using torch::Tensor;

/// Reads a checkpoint's tensors to one device, as float32 if not said otherwise.
class Loader {
 public:
  Loader(ModelConfig config, TensorSource source, torch::Device device)
      : config_(std::move(config)), source_(std::move(source)), device_(device) {
    for (const model_info::LinearLayer& layer : model_info::LinearLayers(config_)) {
      layers_.resize(std::max(layers_.size(), static_cast<std::size_t>(layer.block) + 1));
      layers_[static_cast<std::size_t>(layer.block)].push_back(layer);
    }
  }

  absl::StatusOr<Tensor> ReadStored(const std::string& name) const {
    TEQ_ASSIGN_OR_RETURN(const Tensor stored, source_(name));
    return stored.to(device_).contiguous();
  }

  absl::StatusOr<Tensor> Read(const std::string& name) const {
    TEQ_ASSIGN_OR_RETURN(const Tensor stored, source_(name));
    // Sent as it is stored, which is half as much.
    return stored.to(device_).to(torch::kFloat32).contiguous();
  }

  /// Undefined where the family has no such module.
  absl::StatusOr<Tensor> ReadModule(std::string_view pattern) const {
    if (pattern.empty()) return Tensor();
    return Read(model_info::ModuleName(config_, pattern) + ".weight");
  }

  absl::StatusOr<Norm> ReadNorm(const std::string& name, bool bias) const {
    Norm norm{.name = name};
    TEQ_ASSIGN_OR_RETURN(norm.weight, Read(name + ".weight"));
    if (bias) {
      TEQ_ASSIGN_OR_RETURN(norm.bias, Read(name + ".bias"));
    }
    return norm;
  }

  absl::StatusOr<Norm> ReadModelNorm(std::string_view pattern) const {
    if (pattern.empty()) return Norm();
    return ReadNorm(model_info::ModuleName(config_, pattern), config_.norm_bias);
  }

  absl::StatusOr<Norm> ReadBlockNorm(std::int64_t block, NormPlace place) const {
    const std::vector<std::string> modules = model_info::NormModules(config_, block, place);
    if (modules.empty()) return Norm();
    const bool of_heads = place == NormPlace::kQuery || place == NormPlace::kKey;
    TEQ_ASSIGN_OR_RETURN(Norm norm, ReadNorm(modules.front(), config_.norm_bias && !of_heads));
    if (modules.size() == 1) return norm;
    std::vector<Tensor> heads = {norm.weight};
    for (std::size_t i = 1; i < modules.size(); ++i) {
      TEQ_ASSIGN_OR_RETURN(heads.emplace_back(), Read(modules[i] + ".weight"));
    }
    norm.weight = torch::stack(heads);
    return norm;
  }

  absl::StatusOr<Linear> ReadLinear(const model_info::LinearLayer& layer) const {
    Linear linear{.layer = layer};
    TEQ_ASSIGN_OR_RETURN(linear.weight, Read(layer.name + ".weight"));
    if (config_.transposed_linears) linear.weight = linear.weight.t().contiguous();
    if (layer.bias) {
      TEQ_ASSIGN_OR_RETURN(linear.bias, Read(layer.name + ".bias"));
    }
    return linear;
  }

  absl::StatusOr<Block> ReadBlock(std::size_t number) const {
    Block block{.number = static_cast<std::int64_t>(number)};
    for (std::size_t place = 0; place < block.norms.size(); ++place) {
      TEQ_ASSIGN_OR_RETURN(block.norms[place],
                           ReadBlockNorm(block.number, static_cast<NormPlace>(place)));
    }
    for (const model_info::LinearLayer& layer : layers_[number]) {
      TEQ_ASSIGN_OR_RETURN(block.linears.emplace_back(), ReadLinear(layer));
    }
    return block;
  }

 private:
  ModelConfig config_;
  TensorSource source_;
  torch::Device device_;
  std::vector<std::vector<model_info::LinearLayer>> layers_;  // by block
};

}  // namespace

const Linear* Block::Find(model_info::Role role, int expert) const {
  const auto found = std::ranges::find_if(linears, [&](const Linear& linear) {
    return linear.layer.role == role && linear.layer.expert == expert;
  });
  return found == linears.end() ? nullptr : &*found;
}

absl::StatusOr<Block> Decoder::ReadBlock(std::size_t number) const {
  if (!blocks.empty()) return blocks[number];
  return read_block(number);
}

absl::StatusOr<Decoder> OpenDecoder(const ModelConfig& config,
                                    const model_info::VocabularyTensors& vocabulary,
                                    const TensorSource& source, const torch::Device& device) {
  const auto loader = std::make_shared<const Loader>(config, source, device);
  Decoder decoder{.config = config};
  TEQ_ASSIGN_OR_RETURN(decoder.embedding, loader->ReadStored(vocabulary.embedding));
  decoder.head = decoder.embedding;
  if (vocabulary.head != vocabulary.embedding) {
    TEQ_ASSIGN_OR_RETURN(decoder.head, loader->ReadStored(vocabulary.head));
  }
  if (config.head_bias) {
    TEQ_ASSIGN_OR_RETURN(decoder.head_bias, loader->Read(model_info::HeadName(config) + ".bias"));
  }
  TEQ_ASSIGN_OR_RETURN(decoder.positions, loader->ReadModule(config.names.positions));
  TEQ_ASSIGN_OR_RETURN(decoder.project_in, loader->ReadModule(config.names.project_in));
  TEQ_ASSIGN_OR_RETURN(decoder.project_out, loader->ReadModule(config.names.project_out));
  TEQ_ASSIGN_OR_RETURN(decoder.embedding_norm, loader->ReadModelNorm(config.names.embedding_norm));
  TEQ_ASSIGN_OR_RETURN(decoder.final_norm, loader->ReadModelNorm(config.names.final_norm));
  decoder.read_block = [loader](std::size_t number) { return loader->ReadBlock(number); };
  return decoder;
}

absl::Status HoldBlocks(Decoder& decoder) {
  std::vector<Block> blocks;
  for (std::size_t number = 0; number < decoder.size(); ++number) {
    TEQ_ASSIGN_OR_RETURN(blocks.emplace_back(), decoder.ReadBlock(number));
  }
  decoder.blocks = std::move(blocks);
  return absl::OkStatus();
}

absl::StatusOr<Decoder> ReadDecoder(const std::filesystem::path& directory,
                                    const torch::Device& device) {
  TEQ_ASSIGN_OR_RETURN(ModelConfig config, model_info::ReadModelConfig(directory));
  TEQ_ASSIGN_OR_RETURN(const auto checkpoint, checkpoint::Checkpoint::Open(directory));
  model_info::MatchPrefix(checkpoint.index(), config);
  TEQ_RETURN_IF_ERROR(model_info::CheckTensors(config, checkpoint.index()));
  TEQ_ASSIGN_OR_RETURN(const auto vocabulary,
                       model_info::FindVocabularyTensors(config, checkpoint.index()));
  TEQ_ASSIGN_OR_RETURN(
      Decoder decoder,
      OpenDecoder(
          config, vocabulary,
          [checkpoint](const std::string& name) { return checkpoint.Read(name); }, device));
  TEQ_RETURN_IF_ERROR(HoldBlocks(decoder));
  return decoder;
}

}  // namespace teq::model
