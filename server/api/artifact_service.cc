#include "server/api/artifact_service.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/objects/manifest.h"
#include "client/objects/verify.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/api/answer.h"
#include "server/store/timestamps.h"

namespace teq::api {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using objects::ManifestFile;
using objects::ObjectStore;
using objects::PublishedOutput;

// A gRPC client takes 4 MiB; some are for what surrounds the manifest.
constexpr std::size_t kMaxMessageManifest = (std::size_t{4} << 20) - (std::size_t{64} << 10);
constexpr absl::Duration kDefaultTtl = absl::Hours(1);
constexpr absl::Duration kLongestTtl = absl::Hours(12);
// Of an answer, so that it fits into a message however much is wrong.
constexpr std::size_t kMaxProblems = 1000;

/// A job's output, and the committed manifest as it lies there.
struct OpenOutput {
  std::shared_ptr<ObjectStore> store;
  PublishedOutput published;
};

absl::StatusOr<OpenOutput> Open(const ArtifactOptions& options, const teq::v1::Job& job,
                                const std::function<bool()>& go_on) {
  OpenOutput output;
  TEQ_ASSIGN_OR_RETURN(output.store,
                       options.open_store(job.spec().output().uri(), options.uri_policy, go_on));
  TEQ_ASSIGN_OR_RETURN(output.published,
                       objects::ReadPublishedOutput(*output.store, job.manifest_sha256()));
  return output;
}

absl::StatusOr<absl::Duration> ReadTtl(const teq::v1::CreateDownloadUrlRequest& request) {
  if (!request.has_ttl()) return kDefaultTtl;
  const absl::Duration ttl = store::FromDuration(request.ttl());
  if (ttl < absl::Seconds(1) || ttl > kLongestTtl) {
    return InvalidField("INVALID_TTL", "ttl",
                        fmt::format("{} s is not between 1 s and 12 h", absl::ToInt64Seconds(ttl)));
  }
  return ttl;
}

absl::StatusOr<ManifestFile> FindFile(const OpenOutput& output, const std::string& format,
                                      const std::string& name) {
  const std::string path = fmt::format("{}{}/{}", output.published.manifest.Prefix(),
                                       objects::FormatDirectory(format), name);
  for (ManifestFile& file : output.published.manifest.FilesOf(format)) {
    if (file.path == path) return std::move(file);
  }
  return Error(absl::StatusCode::kNotFound, "FILE_NOT_IN_MANIFEST",
               fmt::format("file: \"{}\" is none of the artifact's; GetManifest lists them", name));
}

absl::Status FillUrl(const ArtifactOptions& options, const queue::ArtifactCatalog& catalog,
                     const teq::v1::CreateDownloadUrlRequest& request,
                     const std::function<bool()>& go_on,
                     teq::v1::CreateDownloadUrlResponse& response) {
  TEQ_ASSIGN_OR_RETURN(const absl::Duration ttl, ReadTtl(request));
  TEQ_ASSIGN_OR_RETURN(const queue::ArtifactName name, queue::ParseArtifactName(request.name()));
  TEQ_RETURN_IF_ERROR(catalog.Get(request.name()).status());
  TEQ_ASSIGN_OR_RETURN(const teq::v1::Job job, catalog.PublishedJob(name.job.ToString()));
  TEQ_ASSIGN_OR_RETURN(const OpenOutput output, Open(options, job, go_on));
  TEQ_ASSIGN_OR_RETURN(const ManifestFile file, FindFile(output, name.format, request.file()));
  TEQ_ASSIGN_OR_RETURN(objects::SignedUrl url, output.store->PresignedUrl(file.path, ttl));
  response.set_url(std::move(url.url));
  *response.mutable_expire_time() = store::ToTimestamp(url.expiry);
  response.set_sha256(file.sha256);
  response.set_bytes(static_cast<int64_t>(file.bytes));
  return absl::OkStatus();
}

absl::Status FillManifest(const ArtifactOptions& options, const queue::ArtifactCatalog& catalog,
                          const teq::v1::GetManifestRequest& request,
                          const std::function<bool()>& go_on, teq::v1::Manifest& response) {
  TEQ_ASSIGN_OR_RETURN(const teq::v1::Job job, catalog.PublishedJob(request.parent()));
  TEQ_ASSIGN_OR_RETURN(OpenOutput output, Open(options, job, go_on));
  if (output.published.text.size() > kMaxMessageManifest) {
    return Error(absl::StatusCode::kResourceExhausted, "MANIFEST_TOO_LARGE",
                 fmt::format("{}: has {} bytes, and an answer takes at most {}; read it there",
                             output.store->Uri(objects::kManifestKey), output.published.text.size(),
                             kMaxMessageManifest));
  }
  response.set_content(std::move(output.published.text));
  response.set_sha256(output.published.sha256);
  return absl::OkStatus();
}

absl::Status FillVerification(const ArtifactOptions& options, const queue::ArtifactCatalog& catalog,
                              const teq::v1::VerifyArtifactRequest& request,
                              const std::function<bool()>& go_on,
                              teq::v1::VerifyArtifactResponse& response) {
  TEQ_ASSIGN_OR_RETURN(const queue::ArtifactName name, queue::ParseArtifactName(request.name()));
  TEQ_RETURN_IF_ERROR(catalog.Get(request.name()).status());
  TEQ_ASSIGN_OR_RETURN(const teq::v1::Job job, catalog.PublishedJob(name.job.ToString()));
  TEQ_ASSIGN_OR_RETURN(const OpenOutput output, Open(options, job, go_on));
  const auto depth = request.depth() == teq::v1::VerifyArtifactRequest::DEPTH_DIGESTS
                         ? objects::VerifyDepth::kDigests
                         : objects::VerifyDepth::kSizes;
  TEQ_ASSIGN_OR_RETURN(
      const objects::Verification verification,
      objects::VerifyFiles(*output.store, output.published.manifest.FilesOf(name.format), depth,
                           [&go_on](std::uint64_t, std::uint64_t) { return go_on(); }));
  response.set_files(verification.files);
  response.set_bytes_read(static_cast<int64_t>(verification.bytes_read));
  const std::size_t count = std::min(verification.problems.size(), kMaxProblems);
  for (std::size_t i = 0; i < count; ++i) {
    auto* problem = response.add_problems();
    problem->set_path(verification.problems[i].path);
    problem->set_description(verification.problems[i].description);
  }
  return absl::OkStatus();
}

}  // namespace

ArtifactService::ArtifactService(ArtifactOptions options, const queue::ArtifactCatalog* catalog)
    : options_(std::move(options)),
      catalog_(catalog),
      reads_("reads of published outputs", options_.max_reads),
      verifications_("verifications", options_.max_verifications) {}

void ArtifactService::Drain() {
  reads_.Drain();
  verifications_.Drain();
}

ServerUnaryReactor* ArtifactService::GetArtifact(CallbackServerContext* context,
                                                 const teq::v1::GetArtifactRequest* request,
                                                 teq::v1::PublishedArtifact* response) {
  return Answer(context, catalog_->Get(request->name()), response);
}

ServerUnaryReactor* ArtifactService::ListArtifacts(CallbackServerContext* context,
                                                   const teq::v1::ListArtifactsRequest* request,
                                                   teq::v1::ListArtifactsResponse* response) {
  return Answer(context, catalog_->List(*request), response);
}

ServerUnaryReactor* ArtifactService::GetManifest(CallbackServerContext* /*context*/,
                                                 const teq::v1::GetManifestRequest* request,
                                                 teq::v1::Manifest* response) {
  return reads_.Run([this, request, response](const std::function<bool()>& go_on) {
    return FillManifest(options_, *catalog_, *request, go_on, *response);
  });
}

ServerUnaryReactor* ArtifactService::CreateDownloadUrl(
    CallbackServerContext* /*context*/, const teq::v1::CreateDownloadUrlRequest* request,
    teq::v1::CreateDownloadUrlResponse* response) {
  return reads_.Run([this, request, response](const std::function<bool()>& go_on) {
    return FillUrl(options_, *catalog_, *request, go_on, *response);
  });
}

ServerUnaryReactor* ArtifactService::VerifyArtifact(CallbackServerContext* /*context*/,
                                                    const teq::v1::VerifyArtifactRequest* request,
                                                    teq::v1::VerifyArtifactResponse* response) {
  return verifications_.Run([this, request, response](const std::function<bool()>& go_on) {
    return FillVerification(options_, *catalog_, *request, go_on, *response);
  });
}

}  // namespace teq::api
