#include "server/store/timestamps.h"

namespace teq::store {
namespace {

constexpr int64_t kMicrosPerSecond = 1'000'000;

}  // namespace

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(absl::ToUnixSeconds(time));
  const absl::Duration rest = time - absl::FromUnixSeconds(timestamp.seconds());
  timestamp.set_nanos(static_cast<int32_t>(absl::ToInt64Microseconds(rest)) * 1000);
  return timestamp;
}

absl::Time FromTimestamp(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixMicros(timestamp.seconds() * kMicrosPerSecond + timestamp.nanos() / 1000);
}

google::protobuf::Duration ToDuration(absl::Duration duration) {
  google::protobuf::Duration proto;
  const int64_t micros = absl::ToInt64Microseconds(duration);
  proto.set_seconds(micros / kMicrosPerSecond);
  proto.set_nanos(static_cast<int32_t>(micros % kMicrosPerSecond) * 1000);
  return proto;
}

absl::Duration FromDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace teq::store
