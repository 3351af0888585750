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

// A process may have some 65,000 mappings, and a mixture's layers have more tensors: those up to
// kLargestPiece share files of kSharedBytes.
constexpr std::size_t kSharedBytes = std::size_t{256} << 20;
constexpr std::size_t kLargestPiece = std::size_t{32} << 20;

std::size_t Pages(std::size_t bytes) {
  static const auto kPage = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + kPage - 1) / kPage * kPage;
}

std::size_t Bytes(torch::IntArrayRef shape, torch::ScalarType type) {
  std::size_t bytes = c10::elementSize(type);
  for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
  return bytes;
}

}  // namespace

/// A file without a name, mapped as a whole, whose parts are given out one after another.
class Scratch::File {
 public:
  static absl::StatusOr<std::shared_ptr<File>> Make(const std::filesystem::path& directory,
                                                    std::size_t bytes) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (error) return objects::WriteError(error.value(), directory, 0);
    std::string name = directory / "scratch-XXXXXX";
    const int descriptor = mkostemp(name.data(), O_CLOEXEC);
    if (descriptor < 0) return objects::WriteError(errno, name, 0);
    unlink(name.c_str());
    auto file = std::shared_ptr<File>(new File(descriptor, bytes, std::move(name)));
    if (ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) return file->Failed(errno);
    void* const begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (begin == MAP_FAILED) return file->Failed(errno);
    file->begin_ = static_cast<char*>(begin);
    return file;
  }

  ~File() {
    if (begin_ != nullptr) munmap(begin_, bytes_);
    close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  [[nodiscard]] bool HasRoom(std::size_t bytes) const { return used_ + bytes <= bytes_; }

  /// Zeros. Their blocks are taken now: a full disk is an error here, not a signal when the memory
  /// is written.
  absl::StatusOr<void*> Take(std::size_t bytes) {
    const int code =
        posix_fallocate(descriptor_, static_cast<off_t>(used_), static_cast<off_t>(bytes));
    if (code != 0) return Failed(code);
    void* const taken = begin_ + used_;
    used_ += bytes;
    return taken;
  }

 private:
  File(int descriptor, std::size_t bytes, std::string name)
      : descriptor_(descriptor), bytes_(bytes), name_(std::move(name)) {}

  [[nodiscard]] absl::Status Failed(int code) const { return objects::WriteError(code, name_, 0); }

  int descriptor_;
  std::size_t bytes_;
  std::string name_;  // that it had
  char* begin_ = nullptr;
  std::size_t used_ = 0;
};

absl::StatusOr<Tensor> Scratch::InFile(torch::IntArrayRef shape, torch::ScalarType type,
                                       std::size_t bytes) {
  const bool is_piece = bytes <= kLargestPiece;
  std::shared_ptr<File> file = is_piece ? shared_ : nullptr;
  if (!file || !file->HasRoom(bytes)) {
    TEQ_ASSIGN_OR_RETURN(file, File::Make(directory_, is_piece ? kSharedBytes : bytes));
    if (is_piece) shared_ = file;
  }
  TEQ_ASSIGN_OR_RETURN(void* const address, file->Take(bytes));
  use_->mapped.insert(address);
  // Where the file stays for its other pieces, the disk gets this one's blocks back.
  const auto give_back = [file, bytes, use = use_](void* data) {
    const std::lock_guard guard(use->mutex);
    use->mapped.erase(data);
    madvise(data, bytes, MADV_REMOVE);
  };
  return torch::from_blob(address, shape, give_back, torch::dtype(type));
}

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
  return InFile(shape, type, Pages(bytes));
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
