#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "absl/status/statusor.h"
#include "torch/types.h"

namespace teq::model {

/// Room for what a run keeps by block or by token, on the host: in memory up to a budget, beyond it
/// in files that have no name, which the kernel holds in its cache as long as memory is free; small
/// tensors share files. A tensor's room is given back with the tensor; nothing is left when the
/// process ends. Thread-safe.
class Scratch {
 public:
  /// `directory` is made when the first file is.
  Scratch(std::filesystem::path directory, std::int64_t memory_budget_bytes)
      : directory_(std::move(directory)),
        budget_(memory_budget_bytes),
        use_(std::make_shared<Use>()) {}

  /// Of what is asked for from now on.
  void SetBudget(std::int64_t memory_budget_bytes) { budget_ = memory_budget_bytes; }

  /// A tensor of zeros; one for a device lies in its memory. RESOURCE_EXHAUSTED, DISK_FULL.
  [[nodiscard]] absl::StatusOr<torch::Tensor> Zeros(torch::IntArrayRef shape,
                                                    torch::ScalarType type,
                                                    const torch::Device& device = torch::kCPU);

  /// A copy. Errors as Zeros.
  [[nodiscard]] absl::StatusOr<torch::Tensor> Keep(const torch::Tensor& tensor);

  /// Takes a tensor's pages out of this process's memory where it lies in a file; they come back
  /// when they are touched.
  void Release(const torch::Tensor& tensor);

 private:
  class File;

  /// With use_->mutex held.
  [[nodiscard]] absl::StatusOr<torch::Tensor> InFile(torch::IntArrayRef shape,
                                                     torch::ScalarType type, std::size_t bytes);

  /// Shared with the tensors, which may live longer.
  struct Use {
    std::mutex mutex;
    std::int64_t memory_bytes = 0;
    std::set<const void*> mapped;  // where tensors in files begin
  };

  std::filesystem::path directory_;
  std::int64_t budget_;
  std::shared_ptr<Use> use_;
  std::shared_ptr<File> shared_;  // where the next small tensor's room is
};

}  // namespace teq::model
