#include "client/api/grpc_status.h"

#include <string>

#include "proto/spec/error.h"

namespace teq::client {
namespace {

// Message and details travel in trailers, of which peers take 8 KiB in all; details are in base64
// and hold the message again.
constexpr std::size_t kMaxMessageBytes = 1024;
constexpr std::size_t kMaxDetailsBytes = 4096;

// At most `bytes` of `text`, not cut inside a character.
std::string Shortened(std::string text, std::size_t bytes) {
  if (text.size() <= bytes) return text;
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };
  while (bytes > 0 && continues(text[bytes])) --bytes;
  text.resize(bytes);
  return text + "...";
}

void KeepOnlyErrorInfo(google::rpc::Status& status) {
  google::rpc::Status kept;
  for (const auto& detail : status.details()) {
    if (detail.Is<google::rpc::ErrorInfo>()) *kept.add_details() = detail;
  }
  status.mutable_details()->Swap(kept.mutable_details());
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status proto = ToProto(status);
  proto.set_message(Shortened(proto.message(), kMaxMessageBytes));
  if (proto.ByteSizeLong() > kMaxDetailsBytes) KeepOnlyErrorInfo(proto);
  const std::string details = proto.details().empty() ? "" : proto.SerializeAsString();
  return {static_cast<grpc::StatusCode>(status.code()), proto.message(), details};
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status proto;
  // A proxy may have replaced the status and kept the details of another; the code decides.
  const bool usable = proto.ParseFromString(status.error_details()) &&
                      proto.code() == static_cast<int>(status.error_code());
  if (usable) return FromProto(proto);
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

}  // namespace teq::client
