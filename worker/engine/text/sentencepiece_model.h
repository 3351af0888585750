#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace teq::text {

/// A SentencePiece model, run by libsentencepiece in the program teq-sentencepiece, which stands
/// beside this one and lives as long as this object; sentencepiece_main.cc says why. Thread-safe.
/// All errors are INVALID_ARGUMENT, reason INVALID_TOKENIZER, and FAILED_PRECONDITION where the
/// program is missing.
class SentencePieceModel {
 public:
  /// Without `dummy_prefix` no space is put before a text, whatever the model says.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SentencePieceModel>> Load(
      const std::filesystem::path& file, bool dummy_prefix);
  SentencePieceModel(const SentencePieceModel&) = delete;
  SentencePieceModel& operator=(const SentencePieceModel&) = delete;
  ~SentencePieceModel();

  [[nodiscard]] absl::StatusOr<std::vector<std::int32_t>> Encode(std::string_view text) const;

  /// The id of exactly this piece.
  [[nodiscard]] absl::StatusOr<std::optional<std::int32_t>> Find(std::string_view piece) const;

  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] std::optional<std::int32_t> bos() const { return bos_; }
  [[nodiscard]] std::optional<std::int32_t> eos() const { return eos_; }

 private:
  SentencePieceModel() = default;

  [[nodiscard]] absl::Status Start(const std::filesystem::path& file, bool dummy_prefix);
  [[nodiscard]] absl::StatusOr<std::vector<std::int32_t>> Receive() const;
  [[nodiscard]] absl::StatusOr<std::vector<std::int32_t>> Ask(char request,
                                                              std::string_view text) const;

  mutable std::mutex mutex_;  // one request at a time
  int socket_ = -1;
  pid_t process_ = -1;
  std::int64_t size_ = 0;
  std::optional<std::int32_t> bos_;
  std::optional<std::int32_t> eos_;
};

}  // namespace teq::text
