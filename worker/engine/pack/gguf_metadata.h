#pragma once

#include "client/model_info/model_config.h"
#include "worker/engine/pack/gguf_container.h"

namespace teq::pack {

/// Adds what llama.cpp must know to run a model that model_info::CheckGgufModel passes: the
/// architecture's name, sizes, norms and rotary positions. Of a model with sliding windows, which
/// llama.cpp lets see everything, the context is as long as a window: within it both are one.
void DescribeModel(const model_info::ModelConfig& config, GgufMetadata& metadata);

}  // namespace teq::pack
