#pragma once

#include <string>

#include "proto/spec/validate.h"
#include "worker/engine/pack/packable_model.h"

namespace teq {

/// A Llama of one block, hidden size 128, whose linear layers are random and rounded to nearest on
/// one grid; float16, no tokenizer.
[[nodiscard]] pack::PackableModel TinyPackable(const LayerGrid& grid);

/// Gives one layer of it another grid, or leaves it float.
void Regrid(pack::PackableModel& model, const std::string& layer, const LayerGrid& grid);

/// Makes it the decoder of a larger model, with a vision tower beside it.
void MakePart(pack::PackableModel& model);

}  // namespace teq
