#include "worker/engine/model/scratch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "client/objects/file.h"
#include "proto/spec/error.h"

namespace teq::model {
namespace {

using torch::Tensor;

/// Maps a new file of `bytes` zeros that goes with the mapping. Its blocks are taken now: a full
/// disk is an error here, not a signal when the memory is written.
absl::StatusOr<void*> MapNamelessFile(const std::filesystem::path& directory, std::size_t bytes) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return objects::WriteError(error.value(), directory, 0);
  std::string name = directory / "scratch-XXXXXX";
  const int file = mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) return objects::WriteError(errno, name, 0);
  unlink(name.c_str());
  int code = posix_fallocate(file, 0, static_cast<off_t>(bytes));
  void* address = MAP_FAILED;
  if (code == 0) {
    address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (address == MAP_FAILED) code = errno;
  }
  close(file);
  if (code != 0) return objects::WriteError(code, name, 0);
  return address;
}

std::size_t Bytes(torch::IntArrayRef shape, torch::ScalarType type) {
  std::size_t bytes = c10::elementSize(type);
  for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
  return bytes;
}

}  // namespace

absl::StatusOr<Tensor> Scratch::Zeros(torch::IntArrayRef shape, torch::ScalarType type,
                                      const torch::Device& device) {
  const std::size_t bytes = Bytes(shape, type);
  const auto size = static_cast<std::int64_t>(bytes);
  const auto options = torch::TensorOptions().dtype(type).device(device);
  if (bytes == 0 || !device.is_cpu()) return torch::zeros(shape, options);
  std::unique_lock lock(use_->mutex);
  if (use_->memory_bytes + size <= budget_) {
    use_->memory_bytes += size;
    lock.unlock();
    const Tensor held = torch::zeros(shape, options);
    const auto forget = [held, size, use = use_](void* /*data*/) {
      const std::lock_guard guard(use->mutex);
      use->memory_bytes -= size;
    };
    return torch::from_blob(held.data_ptr(), shape, forget, options);
  }
  TEQ_ASSIGN_OR_RETURN(void* const address, MapNamelessFile(directory_, bytes));
  use_->mapped.insert(address);
  const auto unmap = [bytes, use = use_](void* data) {
    const std::lock_guard guard(use->mutex);
    use->mapped.erase(data);
    munmap(data, bytes);
  };
  return torch::from_blob(address, shape, unmap, options);
}

absl::StatusOr<Tensor> Scratch::Keep(const Tensor& tensor) {
  TEQ_ASSIGN_OR_RETURN(Tensor kept, Zeros(tensor.sizes(), tensor.scalar_type()));
  kept.copy_(tensor);
  Release(kept);
  return kept;
}

void Scratch::Release(const Tensor& tensor) {
  if (!tensor.defined() || tensor.numel() == 0 || !tensor.device().is_cpu()) return;
  auto* const address = const_cast<void*>(static_cast<const void*>(tensor.storage().data()));
  const std::lock_guard lock(use_->mutex);
  if (use_->mapped.contains(address)) madvise(address, tensor.storage().nbytes(), MADV_DONTNEED);
}

}  // namespace teq::model
