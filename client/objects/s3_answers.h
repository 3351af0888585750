#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/objects/object_store.h"
#include "client/objects/sigv4.h"

namespace teq::objects {

/// What S3 says in XML, read. INTERNAL, BAD_ANSWER, for what is no such document: from a server
/// that is none of S3's, or a cut one.

/// <Error>: what went wrong. Empty where `xml` is none.
struct S3Error {
  std::string code;
  std::string message;
  std::string region;  // where the bucket lies, where the answer says so
};
[[nodiscard]] S3Error ParseError(std::string_view xml);

/// One page of ListObjectsV2, asked for with encoding-type=url. Keys are decoded.
struct ListPage {
  std::vector<ObjectInfo> objects;
  std::string next;  // continuation-token of the next page; empty: the last
};
[[nodiscard]] absl::StatusOr<ListPage> ParseListPage(std::string_view xml);

/// One page of ListMultipartUploads. Keys are decoded where it says that they are encoded.
struct UploadsPage {
  struct Upload {
    std::string key;
    std::string id;
  };
  std::vector<Upload> uploads;
  bool is_last = true;
  std::string next_key;  // key-marker and upload-id-marker of the next page
  std::string next_id;
};
[[nodiscard]] absl::StatusOr<UploadsPage> ParseUploadsPage(std::string_view xml);

/// The UploadId of CreateMultipartUpload.
[[nodiscard]] absl::StatusOr<std::string> ParseUploadId(std::string_view xml);

/// The ETag of CompleteMultipartUpload, with its quotes.
[[nodiscard]] absl::StatusOr<std::string> ParseCompletedEtag(std::string_view xml);

/// The body of CompleteMultipartUpload.
struct CompletedPart {
  std::string etag;
  std::string sha256;  // base 64; empty where the server takes no checksums
};
[[nodiscard]] std::string CompleteBody(const std::vector<CompletedPart>& parts);

/// The keys of STS' AssumeRoleWithWebIdentity.
[[nodiscard]] absl::StatusOr<Credentials> ParseAssumedRole(std::string_view xml);

}  // namespace teq::objects
