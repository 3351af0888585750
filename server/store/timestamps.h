#pragma once

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace teq::store {

/// Times are kept in whole microseconds, as the database holds them.
[[nodiscard]] google::protobuf::Timestamp ToTimestamp(absl::Time time);
[[nodiscard]] absl::Time FromTimestamp(const google::protobuf::Timestamp& timestamp);
[[nodiscard]] google::protobuf::Duration ToDuration(absl::Duration duration);
[[nodiscard]] absl::Duration FromDuration(const google::protobuf::Duration& duration);

}  // namespace teq::store
