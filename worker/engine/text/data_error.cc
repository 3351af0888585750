#include "worker/engine/text/data_error.h"

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::text {

absl::Status DataError(std::string_view reason, std::string_view where, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, reason, fmt::format("{}: {}", where, what));
}

absl::Status CheckTokenizerIds(std::string_view reason, std::string_view where,
                               const std::vector<std::int32_t>& ids, std::int64_t vocabulary_size) {
  for (const std::int32_t id : ids) {
    if (id < vocabulary_size) continue;
    return DataError(reason, where,
                     fmt::format("the tokenizer gives the id {}, but the model has only {} tokens; "
                                 "it belongs to another model",
                                 id, vocabulary_size));
  }
  return absl::OkStatus();
}

absl::Status TooShort(const std::filesystem::path& file, std::string_view found,
                      std::int64_t needed) {
  return DataError("TEXT_TOO_SHORT", file.string(),
                   fmt::format("has {}, and one window needs {}; give a longer text or a smaller "
                               "sequence_length",
                               found, needed));
}

}  // namespace teq::text
