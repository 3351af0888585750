#pragma once

#include "torch/types.h"
#include "worker/engine/text/windows.h"

namespace teq::model {

/// Windows as a tensor of ids, int64 [count, length].
[[nodiscard]] torch::Tensor WindowTensor(const text::Windows& windows);

}  // namespace teq::model
