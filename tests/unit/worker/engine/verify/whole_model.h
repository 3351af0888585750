#pragma once

#include <map>
#include <string>

#include "proto/spec/error.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {

/// A packed model with all that it holds read.
struct WholeModel {
  std::map<std::string, UnpackedLayer> layers;
  std::map<std::string, torch::Tensor> tensors;
};

/// The first error of any part, or all of them.
inline absl::StatusOr<WholeModel> ReadWhole(const absl::StatusOr<PackedModel>& model) {
  if (!model.ok()) return model.status();
  WholeModel whole;
  for (const auto& [name, read] : model->layers) {
    TEQ_ASSIGN_OR_RETURN(whole.layers[name], read());
  }
  for (const auto& [name, read] : model->tensors) {
    TEQ_ASSIGN_OR_RETURN(whole.tensors[name], read());
  }
  return whole;
}

}  // namespace teq::verify
