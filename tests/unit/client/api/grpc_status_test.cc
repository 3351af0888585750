#include "client/api/grpc_status.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::client {
namespace {

using ::testing::EndsWith;

TEST(GrpcStatusTest, ReasonAndMetadataPassThroughTheDetails) {
  const absl::Status status =
      Error(absl::StatusCode::kAborted, "ETAG_MISMATCH", "the job changed", {{"etag", "7"}});
  const grpc::Status sent = ToGrpc(status);
  EXPECT_EQ(sent.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(sent.error_message(), "the job changed");
  google::rpc::Status details;  // as any other client reads grpc-status-details-bin
  ASSERT_TRUE(details.ParseFromString(sent.error_details()));
  EXPECT_EQ(details.code(), 10);
  EXPECT_EQ(details.message(), "the job changed");

  EXPECT_EQ(FromGrpc(sent), status);
}

TEST(GrpcStatusTest, SuccessIsSuccess) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(GrpcStatusTest, StatusWithoutDetailsKeepsCodeAndMessage) {
  const grpc::Status sent = ToGrpc(absl::NotFoundError("no such method"));
  EXPECT_EQ(sent.error_details(), "");
  EXPECT_EQ(FromGrpc(sent), absl::NotFoundError("no such method"));
}

TEST(GrpcStatusTest, BrokenOrForeignDetailsAreIgnored) {
  EXPECT_EQ(FromGrpc({grpc::StatusCode::INTERNAL, "x", "\xff\xff not a message"}),
            absl::InternalError("x"));
  google::rpc::Status other;
  other.set_code(5);
  EXPECT_EQ(FromGrpc({grpc::StatusCode::INTERNAL, "x", other.SerializeAsString()}),
            absl::InternalError("x"));
}

TEST(GrpcStatusTest, LargeErrorStaysBelowTheLimitOfTrailersAndKeepsItsReason) {
  google::rpc::BadRequest::FieldViolation violation;
  violation.set_field("recipe.overrides[0].match");
  violation.set_description(std::string(300, 'x') + "\xc3\xa4");
  const absl::Status status = InvalidFields("INVALID_SPEC", {30, violation});
  const grpc::Status sent = ToGrpc(status);
  EXPECT_LT(sent.error_message().size() + sent.error_details().size() * 4 / 3, 8000U);
  EXPECT_THAT(sent.error_message(), EndsWith("..."));
  EXPECT_EQ(ErrorReason(FromGrpc(sent)), "INVALID_SPEC");
}

}  // namespace
}  // namespace teq::client
