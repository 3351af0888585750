#pragma once

#include <string>

#include "proto/spec/validate.h"
#include "worker/engine/pack/packable_model.h"

namespace teq {

/// A Llama of one block, hidden size 128, whose linear layers are random and rounded to nearest on
/// one grid; float16, no tokenizer.
[[nodiscard]] pack::PackableModel TinyPackable(const LayerGrid& grid);

/// A Qwen 2 mixture, alike: 12 blocks of 12 experts and a shared one, hidden size 64; float16. Its
/// routers and the shared experts' gates are float.
[[nodiscard]] pack::PackableModel TinyMixture(const LayerGrid& grid);

/// Gives one layer of it another grid, or leaves it float.
void Regrid(pack::PackableModel& model, const std::string& layer, const LayerGrid& grid);

/// The same for all layers whose whole name `match`, a regular expression, matches.
void RegridWhere(pack::PackableModel& model, const std::string& match, const LayerGrid& grid);

/// Makes it the decoder of a larger model, with a vision tower beside it.
void MakePart(pack::PackableModel& model);

}  // namespace teq
