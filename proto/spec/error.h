#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace teq {

/// The domain of every ErrorInfo that teqd makes.
inline constexpr std::string_view kErrorDomain = "teqd";

/// An error with a stable machine-readable reason (UPPER_SNAKE, see AIP-193). `message` names the
/// thing, the value and what to do. The reason travels as an ErrorInfo payload through
/// absl::Status, google.rpc.Status and gRPC.
[[nodiscard]] absl::Status Error(absl::StatusCode code, std::string_view reason,
                                 std::string_view message,
                                 const std::map<std::string, std::string>& metadata = {});

/// INVALID_ARGUMENT with reason `reason` and one BadRequest violation per field. The message joins
/// the violations as "field: description".
[[nodiscard]] absl::Status InvalidFields(
    std::string_view reason,
    const std::vector<google::rpc::BadRequest::FieldViolation>& violations);

/// The same for one field.
[[nodiscard]] absl::Status InvalidField(std::string_view reason, std::string_view field,
                                        std::string_view description);

/// The ErrorInfo reason of `status`, or the name of its code where it carries none.
[[nodiscard]] std::string ErrorReason(const absl::Status& status);

/// "REASON: message", as logs and programs tell an error.
[[nodiscard]] std::string ErrorText(const absl::Status& status);

/// `status` with `context` and ": " before its message, its code and payloads kept.
[[nodiscard]] absl::Status WithContext(const absl::Status& status, std::string_view context);

/// Attaches any detail message, replacing one of the same type. No effect on an OK status.
void AddDetail(absl::Status& status, const google::protobuf::Message& detail);

/// Both ways between absl::Status and google.rpc.Status; codes and details are kept.
[[nodiscard]] google::rpc::Status ToProto(const absl::Status& status);
[[nodiscard]] absl::Status FromProto(const google::rpc::Status& status);

}  // namespace teq

/// Returns the status of an expression from the enclosing function unless it is OK.
#define TEQ_RETURN_IF_ERROR(expression)                                                 \
  do {                                                                                  \
    if (absl::Status teq_status_ = (expression); !teq_status_.ok()) return teq_status_; \
  } while (false)

#define TEQ_CONCAT_INNER_(a, b) a##b
#define TEQ_CONCAT_(a, b) TEQ_CONCAT_INNER_(a, b)

/// Declares or assigns `target` from a StatusOr, or returns its status from the enclosing function.
#define TEQ_ASSIGN_OR_RETURN(target, expression) \
  TEQ_ASSIGN_OR_RETURN_(TEQ_CONCAT_(teq_result_, __LINE__), target, expression)
#define TEQ_ASSIGN_OR_RETURN_(result, target, expression) \
  auto result = (expression);                             \
  if (!result.ok()) return result.status();               \
  target = std::move(result).value()
