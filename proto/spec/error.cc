#include "proto/spec/error.h"

#include <utility>

#include "fmt/format.h"
#include "google/protobuf/any.pb.h"

namespace teq {
namespace {

constexpr std::string_view kTypePrefix = "type.googleapis.com/";

std::string TypeUrl(const google::protobuf::Message& message) {
  return fmt::format("{}{}", kTypePrefix, message.GetDescriptor()->full_name());
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

void AddDetail(absl::Status& status, const google::protobuf::Message& detail) {
  status.SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
}

absl::Status Error(absl::StatusCode code, std::string_view reason, std::string_view message,
                   const std::map<std::string, std::string>& metadata) {
  absl::Status status(code, View(message));
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(std::string(kErrorDomain));
  info.mutable_metadata()->insert(metadata.begin(), metadata.end());
  AddDetail(status, info);
  return status;
}

absl::Status InvalidFields(std::string_view reason,
                           const std::vector<google::rpc::BadRequest::FieldViolation>& violations) {
  std::string message;
  google::rpc::BadRequest request;
  for (const auto& violation : violations) {
    if (!message.empty()) message += "; ";
    message += fmt::format("{}: {}", violation.field(), violation.description());
    *request.add_field_violations() = violation;
  }
  absl::Status status = Error(absl::StatusCode::kInvalidArgument, reason, message);
  AddDetail(status, request);
  return status;
}

absl::Status InvalidField(std::string_view reason, std::string_view field,
                          std::string_view description) {
  google::rpc::BadRequest::FieldViolation violation;
  violation.set_field(std::string(field));
  violation.set_description(std::string(description));
  return InvalidFields(reason, {violation});
}

std::string ErrorReason(const absl::Status& status) {
  const google::rpc::ErrorInfo prototype;
  if (const auto payload = status.GetPayload(TypeUrl(prototype))) {
    google::rpc::ErrorInfo info;
    if (info.ParseFromString(std::string(*payload)) && !info.reason().empty()) return info.reason();
  }
  return absl::StatusCodeToString(status.code());
}

std::string ErrorText(const absl::Status& status) {
  return fmt::format("{}: {}", ErrorReason(status), std::string(status.message()));
}

absl::Status WithContext(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status result(status.code(), fmt::format("{}: {}", context,
                                                 std::string_view(status.message().data(),
                                                                  status.message().size())));
  status.ForEachPayload(
      [&](absl::string_view type, const absl::Cord& payload) { result.SetPayload(type, payload); });
  return result;
}

google::rpc::Status ToProto(const absl::Status& status) {
  google::rpc::Status proto;
  proto.set_code(static_cast<int>(status.code()));
  proto.set_message(std::string(status.message()));
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
    google::protobuf::Any* detail = proto.add_details();
    detail->set_type_url(std::string(type));
    detail->set_value(std::string(payload));
  });
  return proto;
}

absl::Status FromProto(const google::rpc::Status& proto) {
  absl::Status status(static_cast<absl::StatusCode>(proto.code()), proto.message());
  for (const auto& detail : proto.details()) {
    status.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return status;
}

}  // namespace teq
