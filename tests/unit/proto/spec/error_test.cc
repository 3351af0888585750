#include "proto/spec/error.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq {
namespace {

TEST(ErrorTest, ReasonDomainAndMetadataTravelThroughTheProtoAndBack) {
  const absl::Status status = Error(absl::StatusCode::kAborted, "LEASE_LOST",
                                    "fence 3 is not the newest", {{"fence", "3"}});

  const google::rpc::Status proto = ToProto(status);
  ASSERT_EQ(proto.code(), 10);  // ABORTED in gRPC's list of codes
  ASSERT_EQ(proto.details_size(), 1);
  EXPECT_EQ(proto.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(proto.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "LEASE_LOST");
  EXPECT_EQ(info.domain(), "teqd");
  EXPECT_EQ(info.metadata().at("fence"), "3");

  EXPECT_EQ(FromProto(proto), status);
}

TEST(ErrorTest, ReasonOfAForeignStatusIsItsCode) {
  EXPECT_EQ(ErrorReason(absl::UnavailableError("no route")), "UNAVAILABLE");
  EXPECT_EQ(ErrorReason(absl::OkStatus()), "OK");
}

TEST(ErrorTest, ContextKeepsCodeAndReason) {
  const absl::Status status =
      WithContext(Error(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", "x.txt is not there"),
                  "calibration.uri");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(status), "FILE_NOT_FOUND");
  EXPECT_EQ(std::string(status.message()), "calibration.uri: x.txt is not there");
}

TEST(ErrorTest, ContextLeavesSuccessAlone) {
  EXPECT_TRUE(WithContext(absl::OkStatus(), "anything").ok());
}

TEST(ErrorTest, InvalidFieldsListsEveryField) {
  google::rpc::BadRequest::FieldViolation bits;
  bits.set_field("recipe.weights.bits");
  bits.set_description("5 is not a supported width");
  google::rpc::BadRequest::FieldViolation uri;
  uri.set_field("model.uri");
  uri.set_description("is missing");

  const absl::Status status = InvalidFields("INVALID_SPEC", {bits, uri});

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "INVALID_SPEC");
  EXPECT_EQ(std::string(status.message()),
            "recipe.weights.bits: 5 is not a supported width; model.uri: is missing");
  google::rpc::BadRequest request;
  bool found = false;
  const google::rpc::Status proto = ToProto(status);
  for (const auto& detail : proto.details()) found |= detail.UnpackTo(&request);
  ASSERT_TRUE(found);
  ASSERT_EQ(request.field_violations_size(), 2);
  EXPECT_EQ(request.field_violations(1).field(), "model.uri");
}

absl::StatusOr<int> Half(int number) {
  if (number % 2 != 0) return absl::InvalidArgumentError("odd");
  return number / 2;
}

absl::StatusOr<int> Quarter(int number) {
  TEQ_ASSIGN_OR_RETURN(const int half, Half(number));
  TEQ_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(ErrorTest, AssignOrReturnPassesValuesAndErrorsOn) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(Quarter(6).status(), absl::InvalidArgumentError("odd"));
}

}  // namespace
}  // namespace teq
