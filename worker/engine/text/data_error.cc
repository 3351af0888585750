#include "worker/engine/text/data_error.h"

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::text {

absl::Status DataError(std::string_view reason, std::string_view where, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, reason, fmt::format("{}: {}", where, what));
}

absl::Status TooShort(const std::filesystem::path& file, std::string_view found,
                      std::int64_t needed) {
  return DataError("TEXT_TOO_SHORT", file.string(),
                   fmt::format("has {}, and one window needs {}; give a longer text or a smaller "
                               "sequence_length",
                               found, needed));
}

}  // namespace teq::text
