// teq-pack-gguf: packs checkpoints as GGUF and computes what they should give. Each line of
// standard input is a request as a JSON object:
//   model, output                   directories
//   bits, group_size, symmetric     the grid to whose nearest codes linear layers are rounded
//   scope                           "all" layers; the "first" one alone; or all, the first weight
//                                   of every row getting the "lowest" code
//   ids                             token ids
// The answer, a line: `difference`, the largest between the weights that were rounded and those
// read back, as a part of the zero point times the scale; and `logits`, [tokens][vocabulary], the
// engine's with the weights that were read back. Or `reason` and `error`.
#include <cmath>
#include <filesystem>
#include <iostream>
#include <string>

#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "torch/types.h"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/pack/gguf.h"
#include "worker/engine/verify/gguf.h"

namespace teq {
namespace {

using torch::Tensor;

absl::StatusOr<pack::PackableModel> Round(const nlohmann::json& request) {
  const std::filesystem::path source = request.at("model").get<std::string>();
  const auto scope = request.at("scope").get<std::string>();
  LayerGrid grid{.bits = request.at("bits"),
                 .group_size = request.at("group_size"),
                 .symmetric = request.at("symmetric")};
  pack::PackableModel model;
  model.source = source;
  TEQ_ASSIGN_OR_RETURN(model.config, model_info::ReadModelConfig(source));
  TEQ_ASSIGN_OR_RETURN(const auto checkpoint, checkpoint::Checkpoint::Open(source));
  model_info::MatchPrefix(checkpoint.index(), model.config);
  TEQ_RETURN_IF_ERROR(model_info::CheckTensors(model.config, checkpoint.index()));
  const auto layers = model_info::LinearLayers(model.config);
  for (const model_info::LinearLayer& layer : layers) {
    grid.quantized = scope != "first" || layer.name == layers.front().name;
    model.plan.push_back({layer, grid});
    if (!grid.quantized) continue;
    TEQ_ASSIGN_OR_RETURN(const Tensor stored, checkpoint.Read(layer.name + ".weight"));
    const Tensor weight = stored.to(torch::kFloat32);
    quant::Quantized quantized = quant::QuantizeToNearest(
        model.config.transposed_linears ? weight.t().contiguous() : weight, grid);
    if (scope == "lowest") quantized.codes.select(1, 0).fill_(0);
    model.layers.emplace(layer.name, std::move(quantized));
  }
  TEQ_ASSIGN_OR_RETURN(const auto vocabulary,
                       model_info::FindVocabularyTensors(model.config, checkpoint.index()));
  for (const auto& tensor : model_info::ExpectedTensors(model.config, vocabulary)) {
    if (tensor.name.ends_with(".weight") &&
        model.layers.contains(tensor.name.substr(0, tensor.name.size() - 7))) {
      continue;
    }
    TEQ_ASSIGN_OR_RETURN(const Tensor stored, checkpoint.Read(tensor.name));
    model.floats.emplace_back(tensor.name, stored);
  }
  return model;
}

absl::StatusOr<double> Difference(const pack::PackableModel& model,
                                  const verify::PackedModel& packed) {
  double largest = 0;
  for (const auto& [name, quantized] : model.layers) {
    const auto found = packed.layers.find(name);
    if (found == packed.layers.end()) {
      return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED", "no layer " + name);
    }
    const Tensor offset =
        (quantized.zeros.to(torch::kFloat32) * quantized.scales.to(torch::kFloat32))
            .repeat_interleave(quantized.codes.size(1) / quantized.scales.size(1), 1);
    TEQ_ASSIGN_OR_RETURN(const verify::UnpackedLayer layer, found->second());
    const Tensor part = (layer.weight - quant::Dequantize(quantized)).abs() / offset;
    const auto most = part.max().item<double>();
    // std::max would drop a NaN.
    if (most > largest || std::isnan(most)) largest = most;
  }
  return largest;
}

absl::StatusOr<nlohmann::json> Run(const nlohmann::json& request) {
  TEQ_ASSIGN_OR_RETURN(const pack::PackableModel model, Round(request));
  const std::filesystem::path output = request.at("output").get<std::string>();
  std::filesystem::create_directories(output);
  TEQ_RETURN_IF_ERROR(pack::WriteGgufDirectory(model, output).status());
  TEQ_ASSIGN_OR_RETURN(const verify::PackedModel packed,
                       verify::ReadGgufDirectory(output, model.config));
  TEQ_ASSIGN_OR_RETURN(const double difference, Difference(model, packed));
  const auto source = [&](const std::string& name) -> absl::StatusOr<Tensor> {
    if (const auto tensor = packed.tensors.find(name); tensor != packed.tensors.end()) {
      return tensor->second();
    }
    const auto layer = packed.layers.find(name.substr(0, name.rfind('.')));
    if (!name.ends_with(".weight") || layer == packed.layers.end()) {
      return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED", "no tensor " + name);
    }
    TEQ_ASSIGN_OR_RETURN(const verify::UnpackedLayer read, layer->second());
    return model.config.transposed_linears ? read.weight.t() : read.weight;
  };
  const std::string embedding =
      model_info::ModuleName(model.config, model.config.names.embedding) + ".weight";
  const model_info::VocabularyTensors vocabulary{embedding,
                                                 fmt::format("{}.weight", model.config.names.head)};
  TEQ_ASSIGN_OR_RETURN(const model::Decoder decoder,
                       model::OpenDecoder(model.config, vocabulary, source, torch::kCPU));
  const Tensor input =
      torch::tensor(request.at("ids").get<std::vector<std::int64_t>>(), torch::kInt64).unsqueeze(0);
  TEQ_ASSIGN_OR_RETURN(const Tensor batch, model::Logits(decoder, input));
  const Tensor logits = batch[0].contiguous();
  nlohmann::json rows = nlohmann::json::array();
  for (std::int64_t i = 0; i < logits.size(0); ++i) {
    const auto* row = logits[i].data_ptr<float>();
    rows.push_back(std::vector<float>(row, row + logits.size(1)));
  }
  return nlohmann::json{{"difference", difference}, {"logits", rows}};
}

}  // namespace
}  // namespace teq

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const auto answer = teq::Run(nlohmann::json::parse(line));
    const absl::Status& status = answer.status();
    std::cout << (status.ok() ? *answer
                              : nlohmann::json{{"reason", teq::ErrorReason(status)},
                                               {"error", std::string(status.message())}})
              << "\n";
  }
  return 0;
}
