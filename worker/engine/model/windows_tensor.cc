#include "worker/engine/model/windows_tensor.h"

namespace teq::model {

torch::Tensor WindowTensor(const text::Windows& windows) {
  return torch::tensor(windows.ids, torch::kInt32)
      .to(torch::kInt64)
      .view({windows.count, windows.length});
}

}  // namespace teq::model
